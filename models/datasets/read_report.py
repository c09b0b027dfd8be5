"""What became of every line of a data set: nothing is dropped without being counted here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Line numbers kept for each reason; the counts are always complete.
MAX_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """Where a rejected line stands and why it was rejected."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class Rejections:
    """How many lines were rejected for one reason, with the first few of them."""

    count: int = 0
    examples: list[RejectedLine] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ReadReport:
    """The account of one reading: lines = accepted + described + duplicates + rejected.

    Headers and blank lines hold no data and are not counted.
    """

    format: str
    #: Lines of data read, of all files together.
    lines: int = 0
    #: Ratings that are in the table.
    accepted: int = 0
    #: Lines about items, users or genres that were understood.
    described: int = 0
    #: Ratings that gave way to a later one of the same user and item.
    duplicates: int = 0
    rejections: dict[str, Rejections] = field(default_factory=dict)
    #: What the operator should know besides, e.g. that a file was not UTF-8.
    notes: list[str] = field(default_factory=list)

    def reject(self, file: str, line: int, reason: str) -> None:
        """Count a rejected line under its reason."""
        group = self.rejections.setdefault(reason, Rejections())
        group.count += 1
        if len(group.examples) < MAX_EXAMPLES:
            group.examples.append(RejectedLine(file, line, reason))

    @property
    def rejected(self) -> int:
        """The number of all rejected lines."""
        return sum(group.count for group in self.rejections.values())

    def rejected_by_reason(self) -> list[tuple[str, Rejections]]:
        """Return the groups, the largest first."""
        return sorted(self.rejections.items(), key=lambda entry: (-entry[1].count, entry[0]))
