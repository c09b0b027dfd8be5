"""Errors of the unlearning benchmark and of its units."""

from __future__ import annotations


class BenchmarkInputError(ValueError):
    """The options or the data cannot be used; the message says what to change."""


class BenchmarkFailedError(RuntimeError):
    """A run that all comparisons need has failed; finished runs are kept."""


class UnitFailedError(RuntimeError):
    """One unit has failed; independent units go on."""
