"""Define the entry of a format in the registry `models.datasets.detect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: `recognizes` tests a path, and `layout` describes such a path to the operator."""

    name: str
    layout: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path, ReadReport, Progress | None, ReadOptions], Interactions]
