"""Fast forward passes for scoring: shared prefixes, packed rows, and the compact reader."""
