"""Prompts: the token sequences by which a language model reads a user and a candidate item."""
