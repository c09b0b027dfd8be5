"""What a format is to the registry: a name, a look at the path, and a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport
    from models.datasets.text_files import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One known format. `layout` tells the operator what a path of this format looks like."""

    name: str
    layout: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path, ReadReport, Progress | None], Interactions]
