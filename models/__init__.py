"""The machine learning. Knows nothing of HTTP, SQL or Celery."""
