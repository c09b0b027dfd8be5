"""Create identifiers: most ids sort by their time of creation, and release ids are digests."""

from __future__ import annotations

import secrets
import time
from typing import Literal


def new_id(prefix: Literal["req", "job", "rep", "bulk"]) -> str:
    """Return a new id that sorts by creation time: 48 bits of milliseconds and 80 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}_{milliseconds & (2**48 - 1):012x}{secrets.token_hex(10)}"


def release_id(digest: str) -> str:
    """Return the id of the release whose weights have this SHA-256."""
    return f"rel_{digest[:24]}"
