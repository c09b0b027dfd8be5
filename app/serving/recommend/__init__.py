"""Answer recommendation queries: prepare inputs, rank items, limit concurrent work."""
