"""Unlearning methods; each method is one file and one line in the registry."""
