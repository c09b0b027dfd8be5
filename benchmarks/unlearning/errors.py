"""What can go wrong with a benchmark as a whole, and with one of its runs."""

from __future__ import annotations


class BenchmarkInputError(ValueError):
    """What the benchmark was given cannot be used; the message says what to do."""


class BenchmarkFailedError(RuntimeError):
    """A run that all others need could not be finished; what is finished is kept."""


class UnitFailedError(RuntimeError):
    """One run could not be finished; the others can."""
