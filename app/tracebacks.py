"""Describe an exception in the log without its message, which may quote personal data."""

from __future__ import annotations

import traceback
from typing import Any, Final

_FRAMES: Final = 8


def error_location(error: BaseException) -> dict[str, Any]:
    """Return log fields: the type of the error and the innermost stack frames, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return {
        "error": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
