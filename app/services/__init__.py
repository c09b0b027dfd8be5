"""One module per use case. The unit of work is the only way to data."""
