"""The use cases of Lethe, one module per subject.

Every function takes an open unit of work, which the caller commits.
"""
