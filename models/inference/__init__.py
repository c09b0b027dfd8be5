"""Fast scoring of many candidates: prefix caching, packed sequences, and a compact-model reader."""
