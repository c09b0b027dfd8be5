"""One file per format, all giving the same Interactions table."""
