"""`lethe demo`: a real person is forgotten, end to end, told step by step."""
