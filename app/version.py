"""The version of the software, as in pyproject.toml. Containers run it without its metadata."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
