"""The erasure ledger: one object per transaction, created once and never changed.

The ledger lies outside the database and outside the artifact store, so that a restored backup of
either is noticed. Entry n is authenticated by an HMAC and names the digest of entry n - 1. The
number and the digest of the newest entry are in the table `state`.

An entry is written before its transaction commits, under the data lock. An entry whose number is
above the one in the table `state` therefore belongs to a transaction that did not commit, or the
database was restored from a backup.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import LedgerAheadError, LedgerDamagedError, LedgerUnavailableError
from app.storage.ledger_format import (
    CHECKPOINTS,
    ENTRIES,
    checkpoint_name,
    decode,
    encode,
    entry_name,
    is_bucket,
    number_of,
)
from app.storage.ledger_objects import BoundedObjects, open_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.domain.ledger import LedgerEntry, LedgerHead, LedgerRecord
    from app.services.pseudonyms import Pseudonyms
    from app.storage.ledger_objects import LedgerObjects

_log = structlog.get_logger(__name__)
#: Maximum duration of a call to the store. SQLite's other writers wait for 15 seconds.
_TIMEOUT_SECONDS: Final = 10.0
#: Maximum number of entries that are read by one call.
_READ_LIMIT: Final = 256


class Ledger:
    """The entries of one installation, authenticated by a key that is derived from its hash key.

    All methods raise LedgerUnavailableError if the store fails or does not respond in time.
    """

    def __init__(self, objects: LedgerObjects, key: bytes) -> None:
        self._objects = objects
        self._key = key

    def append(
        self, head: LedgerHead, records: Iterable[LedgerRecord], data_version: int
    ) -> LedgerHead:
        """Create the entry after `head` and return the new head.

        Raises LedgerAheadError if the entry exists.
        """
        content, new_head = encode(self._key, head, records, data_version)
        with _store_errors("ledger_not_written"):
            if head.number and not self._objects.exists(entry_name(head.number)):
                # The volume of the ledger was removed or is not mounted: start no second ledger.
                raise FileNotFoundError(errno.ENOENT, "the newest entry of the ledger is missing")
            try:
                self._objects.create(entry_name(new_head.number), content)
            except FileExistsError as error:
                raise LedgerAheadError from error
        return new_head

    def entry(self, number: int) -> LedgerEntry | None:
        """Return the entry, or None if there is none.

        Raises LedgerDamagedError if the entry is not authentic.
        """
        content = self.contents([number]).get(number)
        return None if content is None else self.decoded(number, content)

    def entries(self, after: LedgerHead) -> Iterator[LedgerEntry]:
        """Yield the entries after `after`, and check that each continues the one before.

        Raises LedgerDamagedError.
        """
        head, length = after, 1
        while True:
            numbers = range(head.number + 1, head.number + 1 + length)
            contents = self.contents(numbers)
            for number in numbers:
                if number not in contents:
                    return
                entry = self.decoded(number, contents[number])
                if entry.previous != head.digest:
                    raise LedgerDamagedError(
                        reason=f"entry {number} does not continue entry {head.number}"
                    )
                yield entry
                head = entry.head
            # Usually one entry or none is missing, but a restored database lacks many entries.
            length = min(2 * length, _READ_LIMIT)

    def is_ahead(self, head: LedgerHead) -> bool:
        """Return whether an entry after `head` exists."""
        with _store_errors("ledger_not_read"):
            return self._objects.exists(entry_name(head.number + 1))

    def last_number(self) -> int:
        """Return the highest number of an entry; 0 for an empty ledger."""
        for bucket in reversed(self.buckets()):
            numbers, _ = self.entry_numbers(bucket)
            if numbers:
                return numbers[-1]
        return 0

    def buckets(self) -> list[str]:
        """Return the names of the directories with entries, in order."""
        with _store_errors("ledger_not_read"):
            return [name for name in self._objects.names(ENTRIES) if is_bucket(name)]

    def entry_numbers(self, bucket: str) -> tuple[list[int], list[str]]:
        """Return the numbers of the entries in a directory, in order, and its foreign names."""
        return self._numbers(f"{ENTRIES}/{bucket}", bucket)

    def checkpoint_numbers(self) -> tuple[list[int], list[str]]:
        """Return the numbers of the entries that have a checkpoint, in order; and foreign names."""
        return self._numbers(CHECKPOINTS, None)

    def foreign_names(self) -> list[str]:
        """Return the names of what is neither a directory of entries nor of checkpoints."""
        with _store_errors("ledger_not_read"):
            top = [n for n in self._objects.names("") if n not in {ENTRIES, CHECKPOINTS}]
            return top + [
                f"{ENTRIES}/{n}" for n in self._objects.names(ENTRIES) if not is_bucket(n)
            ]

    def contents(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the bytes of those of the entries that exist. The bytes are not checked."""
        names = {entry_name(number): number for number in numbers}
        with _store_errors("ledger_not_read"):
            found = self._objects.read(list(names))
        return {names[name]: content for name, content in found.items()}

    def decoded(self, number: int, content: bytes) -> LedgerEntry:
        """Return the entry with these bytes. Raises LedgerDamagedError if it is not authentic."""
        return decode(self._key, number, content)

    def create_checkpoint(self, number: int, content: bytes) -> None:
        """Create the checkpoint of the entry. Raises FileExistsError if there is one."""
        with _store_errors("checkpoint_not_written", passed=FileExistsError):
            self._objects.create(checkpoint_name(number), content)

    def checkpoints(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the bytes of those of the entries' checkpoints that exist, unchecked."""
        names = {checkpoint_name(number): number for number in numbers}
        with _store_errors("ledger_not_read"):
            found = self._objects.read(list(names))
        return {names[name]: content for name, content in found.items()}

    def remove_leftovers(self) -> int:
        """Remove temporary files of killed writers, which no reader counts; return their number."""
        with _store_errors("ledger_leftovers_not_removed"):
            newest = [f"{ENTRIES}/{name}" for name in self.buckets()[-2:]]
            return sum(map(self._objects.remove_leftovers, [*newest, CHECKPOINTS]))

    def _numbers(self, directory: str, bucket: str | None) -> tuple[list[int], list[str]]:
        with _store_errors("ledger_not_read"):
            names = self._objects.names(directory)
        numbers, foreign = [], []
        for name in names:
            number = number_of(name, bucket)
            if number is None:
                foreign.append(f"{directory}/{name}")
            else:
                numbers.append(number)
        return numbers, foreign


def open_ledger(
    root: str, pseudonyms: Pseudonyms, *, timeout_seconds: float = _TIMEOUT_SECONDS
) -> Ledger:
    """Open the installation's directory in the ledger at this path or fsspec URL.

    Installations with different hash keys can share a root. Raises InvalidInputError if the root
    cannot be used.
    """
    objects = open_objects(root, pseudonyms.fingerprint()[:16])
    return Ledger(BoundedObjects(objects, timeout_seconds), pseudonyms.ledger_key())


@contextmanager
def _store_errors(event: str, *, passed: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Log an error of the store as `event`, and raise LedgerUnavailableError instead."""
    try:
        yield
    except (LedgerAheadError, LedgerDamagedError, LedgerUnavailableError):
        raise
    except Exception as error:
        if passed and isinstance(error, passed):
            raise
        # Errors of remote stores have no common base class, and their messages may hold secrets.
        code = errno.errorcode.get(getattr(error, "errno", None) or 0)
        _log.warning(event, error=type(error).__name__, code=code)
        raise LedgerUnavailableError from error
