"""Answer recommendation queries from the live release.

From top to bottom, each folder imports only from those below:

- `recommend`: prepares queries, ranks items and limits concurrent work.
- `replica`: holds this gateway's lease and switches between releases.
- `retrieval`: proposes candidate items from co-occurrence statistics (the first stage).
- `scorers`: computes a release's scores, with torch in this process or with a serving engine.
"""
