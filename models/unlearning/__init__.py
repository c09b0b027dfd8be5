"""Methods that make a model forget: one method, one file."""
