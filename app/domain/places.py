"""Compare places of data: paths of this machine, and URLs of fsspec."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: Path) -> Path:
    """Return the absolute path without `..`; a symbolic link stays a link."""
    return Path(os.path.abspath(path))  # noqa: PTH100 # pathlib keeps `..`


def is_plain_path(place: str) -> bool:
    """Return whether this is a path of this machine, written without a protocol."""
    return "://" not in place and "::" not in place


def is_inside(place: str, other: str) -> bool:
    """Return whether `place` equals `other` or lies inside `other`, also through links."""
    if _protocol(place) == _protocol(other) == "file":
        return _real_path(place).is_relative_to(_real_path(other))
    inner, outer = (each.rstrip("/") for each in (place, other))
    return inner == outer or inner.startswith(f"{outer}/")


def _protocol(place: str) -> str:
    """Return the protocol of a URL, and `file` for a path."""
    if "::" in place:
        return place
    protocol, separator, _ = place.partition("://")
    return "file" if not separator or protocol == "local" else protocol


def _real_path(place: str) -> Path:
    return Path(place.partition("://")[2] or place).resolve()
