"""Training a recommender from scratch or from its present weights."""
