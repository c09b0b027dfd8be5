"""Check the whole erasure ledger: its chain of entries and its checkpoints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidCertificateError, LedgerDamagedError
from app.domain.ledger import NO_DIGEST
from app.services.ledger_checkpoints import reference_to, verify_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.services.signatures import TrustedKey
    from app.storage.ledger import Ledger

#: Number of objects that are read by one call.
_CHUNK: Final = 250


class ProblemKind(StrEnum):
    """The kinds of problems.

    `missing`: no object, `altered`: not authentic, `unchained`: does not continue the entry before,
    `foreign`: a file that Lethe did not write, `checkpoint`: a checkpoint that does not verify or
    does not agree with the entries or with the checkpoint before.
    """

    MISSING = "missing"
    ALTERED = "altered"
    UNCHAINED = "unchained"
    FOREIGN = "foreign"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerProblem:
    """A problem. `number` and `last` are the first and the last entry that it concerns."""

    kind: ProblemKind
    text: str
    number: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What `check_ledger` found."""

    #: Number of entries that are authentic.
    entries: int
    #: Highest number of an entry; 0 for an empty ledger.
    last_number: int
    #: Number of checkpoints that verify and agree with the ledger.
    checkpoints: int
    #: The newest entry that such a checkpoint covers; 0 for none.
    covered: int
    problems: tuple[LedgerProblem, ...]


def check_ledger(ledger: Ledger, trusted_keys: Sequence[TrustedKey]) -> LedgerReport:
    """Check all entries from entry 1, and all checkpoints.

    `trusted_keys` include the retired ones. Raises LedgerUnavailableError.
    """
    check = _Check(ledger)
    check.entries()
    check.checkpoints(trusted_keys)
    return LedgerReport(
        entries=check.authentic,
        last_number=check.last_number,
        checkpoints=check.agreeing,
        covered=check.covered,
        problems=tuple(check.problems),
    )


class _Check:
    """One pass over a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._checkpoint_numbers, foreign = ledger.checkpoint_numbers()
        self.problems = [_foreign(name) for name in [*ledger.foreign_names(), *foreign]]
        #: Digests of the entries that have a checkpoint, by number.
        self._digests: dict[int, str] = {}
        self.authentic = self.last_number = self.agreeing = self.covered = 0

    def entries(self) -> None:
        """Check that the entries are authentic and complete, and that each continues the last."""
        previous: str | None = NO_DIGEST
        covered = {*self._checkpoint_numbers}
        for number, content in self._contents():
            if number > self.last_number + 1:
                self._add_missing(self.last_number + 1, number - 1)
                previous = None
            self.last_number = number
            digest = hashlib.sha256(content).hexdigest()
            if number in covered:
                self._digests[number] = digest
            try:
                entry = self._ledger.decoded(number, content)
            except LedgerDamagedError as error:
                self._add(ProblemKind.ALTERED, error.context["reason"], number)
                previous = None  # The next entry cannot be compared with altered bytes.
                continue
            self.authentic += 1
            if previous is not None and entry.previous != previous:
                text = f"entry {number} does not continue entry {number - 1}"
                self._add(ProblemKind.UNCHAINED, text, number)
            previous = digest

    def checkpoints(self, keys: Sequence[TrustedKey]) -> None:
        """Check the signatures, and that each agrees with its entry and its predecessor."""
        sha256s: dict[int, str] = {}
        numbers = self._checkpoint_numbers
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            for number, content in sorted(self._ledger.checkpoints(chunk).items()):
                error = self._disagreement(number, content, keys, sha256s)
                sha256s[number] = reference_to(number, content).sha256
                if error is None:
                    self.agreeing += 1
                    self.covered = number
                else:
                    text = f"checkpoint {number} cannot be trusted: {error}"
                    self._add(ProblemKind.CHECKPOINT, text, number)

    def _disagreement(
        self, number: int, content: bytes, keys: Sequence[TrustedKey], sha256s: dict[int, str]
    ) -> str | None:
        """Return the reason why the checkpoint cannot be trusted, or None."""
        try:
            checkpoint = verify_checkpoint(content, keys)
        except InvalidCertificateError as error:
            return str(error.context["reason"])
        digest = self._digests.get(number)
        if checkpoint.head.number != number:
            return f"it covers entry {checkpoint.head.number}"
        if digest is None:
            return f"entry {number} is missing"
        if digest != checkpoint.head.digest:
            return f"entry {number} has another digest"
        previous = checkpoint.previous
        if previous is not None and sha256s.get(previous.number) != previous.sha256:
            return f"the checkpoint before, {previous.number}, is missing or another one"
        return None

    def _contents(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of each entry, in order."""
        for bucket in self._ledger.buckets():
            numbers, foreign = self._ledger.entry_numbers(bucket)
            self.problems.extend(map(_foreign, foreign))
            for start in range(0, len(numbers), _CHUNK):
                yield from sorted(self._ledger.contents(numbers[start : start + _CHUNK]).items())

    def _add(self, kind: ProblemKind, text: str, number: int) -> None:
        self.problems.append(LedgerProblem(kind=kind, text=text, number=number, last=number))

    def _add_missing(self, first: int, last: int) -> None:
        text = (
            f"entries {first} to {last} are missing"
            if last > first
            else f"entry {first} is missing"
        )
        self.problems.append(
            LedgerProblem(kind=ProblemKind.MISSING, text=text, number=first, last=last)
        )


def _foreign(name: str) -> LedgerProblem:
    return LedgerProblem(kind=ProblemKind.FOREIGN, text=f"Lethe did not write the file {name}")
