"""Readers of data sets: each format has one module and gives an Interactions table."""
