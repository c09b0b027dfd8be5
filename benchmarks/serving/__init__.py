"""Benchmark recommendations over HTTP, with and without deletions running."""
