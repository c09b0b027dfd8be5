"""Benchmark unlearning methods: utility, distance to retraining, attacks and time."""
