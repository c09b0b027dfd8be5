"""Count accepted, replaced and rejected lines of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: The number of rejected lines that are kept as examples of each reason.
MAX_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """The location of a rejected line and the reason for its rejection."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class Rejections:
    """The number of lines rejected for one reason, and the first of them as examples."""

    count: int = 0
    examples: list[RejectedLine] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ReadReport:
    """The counts of one reading: lines = accepted + described + duplicates + rejected.

    Headers and blank lines are not counted.
    """

    format: str
    #: Data lines of all files.
    lines: int = 0
    #: Ratings in the resulting table.
    accepted: int = 0
    #: Valid lines about items, users or genres.
    described: int = 0
    #: Ratings that a later rating of the same user and item replaced.
    duplicates: int = 0
    rejections: dict[str, Rejections] = field(default_factory=dict)
    #: Further remarks for the operator, for example that a file is not UTF-8.
    notes: list[str] = field(default_factory=list)

    def reject(self, file: str, line: int, reason: str) -> None:
        """Count a rejected line under its reason."""
        group = self.rejections.setdefault(reason, Rejections())
        group.count += 1
        if len(group.examples) < MAX_EXAMPLES:
            group.examples.append(RejectedLine(file, line, reason))

    @property
    def rejected(self) -> int:
        """The total number of rejected lines."""
        return sum(group.count for group in self.rejections.values())

    def rejected_by_reason(self) -> list[tuple[str, Rejections]]:
        """Return (reason, rejections), most frequent reason first."""
        return sorted(self.rejections.items(), key=lambda entry: (-entry[1].count, entry[0]))
