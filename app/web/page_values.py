"""Texts for values of certificates: times, counts, shares, and values that are not recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def moment(value: Any) -> str:
    """Return a time as `2026-11-30 08:19:29 UTC`; another value as it is."""
    if value is None:
        return "not recorded"
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time.tzinfo else str(value)


def known(value: Any) -> str:
    """Return the value as text, and None as `not recorded`."""
    return "not recorded" if value is None else str(value)


def count(number: int, noun: str) -> str:
    """Return the number with its noun, such as `1 file` or `2 files`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(value: float) -> str:
    """Return a share in percent with the minus sign of the other texts."""
    return f"{value:.0%}".replace("-", "−")


def nats(value: float) -> str:
    """Return a change of a loss, in nats."""
    return f"{value:+.4f}".replace("-", "−")
