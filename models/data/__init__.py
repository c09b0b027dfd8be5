"""Interactions as arrays, the samples and splits made of them, and metrics of predictions."""
