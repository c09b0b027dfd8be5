"""`lethe demo`: forget a real user end to end and explain each step."""
