"""Measure whether a release forgot: expected loss increase, gate, membership, relearning."""
