"""Compute scores with torch in this process or with a serving engine over HTTP."""
