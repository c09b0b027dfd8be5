"""Prompts: what a user and a candidate become before a language model reads them."""
