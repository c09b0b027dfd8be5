"""Names of the methods that every comparison refers to."""

from __future__ import annotations

from typing import Final

RETRAIN: Final = "retrain"
ORIGINAL: Final = "original"
