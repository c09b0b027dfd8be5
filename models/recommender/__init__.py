"""Recommenders: a backbone with its prompt, its weights, and its adapter."""
