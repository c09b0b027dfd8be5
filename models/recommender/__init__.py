"""Recommenders: a backbone with its vocabulary, prompt style, weights and adapter."""
