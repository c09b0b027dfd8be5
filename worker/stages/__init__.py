"""The stages of the pipeline. `worker/pipeline.py` holds their order."""
