"""Train a recommender from initial weights or from its current weights."""
