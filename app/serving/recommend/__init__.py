"""Answering recommendation queries: inputs, ranking, and admission to the scoring threads."""
