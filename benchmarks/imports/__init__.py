"""Benchmark of `lethe import`: one table in each format, with times and memory."""
