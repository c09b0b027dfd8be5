"""Readers of data sets: every reader turns a format into an Interactions table."""
