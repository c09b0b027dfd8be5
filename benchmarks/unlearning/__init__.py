"""Compares unlearning methods: utility, distance to retraining, attacks, time."""
