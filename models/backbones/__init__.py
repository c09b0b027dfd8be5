"""Language models that a recommender is built on: compact, packaged, or from the hub."""
