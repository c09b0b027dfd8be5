"""Benchmarks of unlearning and serving. The service never imports them."""
