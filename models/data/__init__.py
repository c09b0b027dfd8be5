"""Interaction tables, training samples, splits and metrics of predictions."""
