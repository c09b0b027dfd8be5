"""Count lines with a fault, and decide whether unreadable values refuse the file.

A few damaged lines are rejected and listed one by one. Many are another column or another form:
the rest would be the part of the file that happens to fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport

#: The largest share of unreadable values, and the number up to which their share does not count.
MAX_UNREADABLE_SHARE: Final = 0.01
MAX_FEW_UNREADABLE: Final = 10
#: Even in the smallest file, and with `--skip-unreadable`, most values must be readable.
_MAX_SHARE_OF_FEW: Final = 0.5


class LineCount:
    """The number of lines with a fault, and the place of the first."""

    def __init__(self, report: ReadReport) -> None:
        self._report = report
        self.count = 0
        self.first = ""

    def add(self) -> None:
        """Count the present line."""
        self.count += 1
        self.first = self.first or self._report.place


class UnreadableValues(LineCount):
    """The lines in which the value of one column, or of several, cannot be read."""

    def __init__(self, report: ReadReport, options: ReadOptions) -> None:
        super().__init__(report)
        self._most_few = math.inf if options.skip_unreadable else MAX_FEW_UNREADABLE

    def are_too_many(self, readable: int) -> bool:
        """Return whether the file must be refused, given the number of other values."""
        total = readable + self.count
        share = _MAX_SHARE_OF_FEW if self.count <= self._most_few else MAX_UNREADABLE_SHARE
        return self.count > share * total

    def advice(self, readable: int) -> str:
        """Return the option that leaves these lines out, if most values can be read."""
        if self.count > _MAX_SHARE_OF_FEW * (readable + self.count):
            return ""
        return " To leave these lines out, import with --skip-unreadable."
