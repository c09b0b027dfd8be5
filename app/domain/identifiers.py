"""Identifiers: sortable by time where that helps, derived from content where that matters."""

from __future__ import annotations

import secrets
import time
from typing import Literal


def new_id(prefix: Literal["req", "job", "rep"]) -> str:
    """Return a new id that sorts by its time of making: 48 bits of milliseconds, 80 random ones."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}_{milliseconds & (2**48 - 1):012x}{secrets.token_hex(10)}"


def release_id(digest: str) -> str:
    """Return the name of the release whose weights have this SHA-256."""
    return f"rel_{digest[:24]}"
