"""Count accepted, replaced and rejected lines of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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

    #: How ratings without times got them: random or order; empty if the ratings have times.
    no_timestamps: str = ""
    #: The present line, as "file:line", for messages about the first of several lines.
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """The file and the number of the present line."""
        return f"{self.file}:{self.line}"

    def reject(self, file: str, line: int, reason: str) -> None:
        """Count a rejected line under its reason."""
        group = self.rejections.setdefault(reason, Rejections())
        group.count += 1
        if len(group.examples) < MAX_EXAMPLES:
            group.examples.append(RejectedLine(file, line, reason))

    def note_files(self, files: Sequence[Path]) -> None:
        """Note the names of the files of ratings if there are several."""
        if len(files) > 1:
            self.notes.append("read: " + ", ".join(file.name for file in files))

    def no_ratings_message(self, path: Path) -> str:
        """Return why a data set without an accepted rating has none."""
        reasons = "; ".join(
            f"{group.count:,} times {reason} "
            f"(first: {group.examples[0].file}:{group.examples[0].line})"
            for reason, group in self.rejected_by_reason()[:3]
        )
        if not reasons:
            return f"{path} holds no ratings."
        return f"{path} holds no usable rating. Rejected: {reasons}."

    @property
    def rejected(self) -> int:
        """The total number of rejected lines."""
        return sum(group.count for group in self.rejections.values())

    def rejected_by_reason(self) -> list[tuple[str, Rejections]]:
        """Return (reason, rejections), most frequent reason first."""
        return sorted(self.rejections.items(), key=lambda entry: (-entry[1].count, entry[0]))
