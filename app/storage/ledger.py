"""The erasure ledger: one object per transaction, created once and never changed.

The ledger lies outside the database and outside the artifact store, so that a restored backup of
either is noticed. Entry n is the object `entries/BUCKET/n.json`: JSON with an HMAC, and with the
digest of entry n - 1. The number and the digest of the newest entry are in the table `state`.

An entry is written before its transaction commits, under the data lock. An entry whose number is
above the one in the table `state` therefore belongs to a transaction that did not commit, or the
database was restored from a backup.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import fsspec
import structlog

from app.domain.errors import LedgerAheadError, LedgerDamagedError, LedgerUnavailableError
from app.domain.ledger import LedgerEntry, LedgerEvent, LedgerHead, LedgerRecord
from app.domain.requests import Scope
from app.private_files import sync, write_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.services.pseudonyms import Pseudonyms

_log = structlog.get_logger(__name__)
#: Number of entries per directory.
_BUCKET: Final = 1000
_ENTRIES: Final = "entries"


class LedgerObjects(Protocol):
    """A store of small objects that are created once. Names are relative paths."""

    def create(self, name: str, content: bytes) -> None:
        """Create the object durably. Raises FileExistsError if it exists."""

    def read(self, name: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""

    def exists(self, name: str) -> bool: ...

    def names(self, directory: str) -> list[str]:
        """Return the sorted names in the directory; an empty list if there is none."""


class Ledger:
    """The entries of one installation, authenticated by a key that is derived from its hash key."""

    def __init__(self, objects: LedgerObjects, key: bytes) -> None:
        self._objects = objects
        self._key = key

    def append(
        self, head: LedgerHead, records: Iterable[LedgerRecord], data_version: int
    ) -> LedgerHead:
        """Create the entry after `head` and return the new head.

        Raises LedgerAheadError if the entry exists, and LedgerUnavailableError.
        """
        number = head.number + 1
        body = {
            "number": number,
            "previous": head.digest,
            "data_version": data_version,
            "records": [_to_json(record) for record in records],
        }
        content = _canonical({"body": body, "mac": self._mac(body)})
        try:
            self._objects.create(_name(number), content)
        except FileExistsError as error:
            raise LedgerAheadError from error
        except Exception as error:
            # Errors of remote stores have no common base class.
            _log.warning("ledger_not_written", error=type(error).__name__)
            raise LedgerUnavailableError from error
        return LedgerHead(number=number, digest=hashlib.sha256(content).hexdigest())

    def entry(self, number: int) -> LedgerEntry | None:
        """Return the entry, or None if there is none.

        Raises LedgerDamagedError if the entry is not authentic, and LedgerUnavailableError.
        """
        try:
            content = self._objects.read(_name(number))
        except FileNotFoundError:
            return None
        except Exception as error:
            _log.warning("ledger_not_read", error=type(error).__name__)
            raise LedgerUnavailableError from error
        return self._parsed(number, content)

    def entries(self, after: LedgerHead) -> Iterator[LedgerEntry]:
        """Yield the entries after `after`, and check that each continues the one before.

        Raises LedgerDamagedError.
        """
        head = after
        while (entry := self.entry(head.number + 1)) is not None:
            if entry.previous != head.digest:
                raise LedgerDamagedError(
                    reason=f"entry {entry.head.number} does not continue entry {head.number}"
                )
            yield entry
            head = entry.head

    def is_ahead(self, head: LedgerHead) -> bool:
        """Return whether an entry after `head` exists."""
        try:
            return self._objects.exists(_name(head.number + 1))
        except Exception as error:
            _log.warning("ledger_not_read", error=type(error).__name__)
            raise LedgerUnavailableError from error

    def last_number(self) -> int:
        """Return the highest number of an entry; 0 for an empty ledger."""
        try:
            for bucket in reversed(self._objects.names(_ENTRIES)):
                names = self._objects.names(f"{_ENTRIES}/{bucket}")
                numbers = [int(n.removesuffix(".json")) for n in names if n.endswith(".json")]
                if numbers:
                    return max(numbers)
        except ValueError as error:
            raise LedgerDamagedError(reason="a file in the ledger has a foreign name") from error
        except Exception as error:
            _log.warning("ledger_not_read", error=type(error).__name__)
            raise LedgerUnavailableError from error
        return 0

    def _parsed(self, number: int, content: bytes) -> LedgerEntry:
        damaged = LedgerDamagedError(reason=f"entry {number} was altered or truncated")
        try:
            document = json.loads(content)
            body = document["body"]
            if not hmac.compare_digest(str(document["mac"]), self._mac(body)):
                raise damaged
            if body["number"] != number:
                raise damaged
            return LedgerEntry(
                head=LedgerHead(number=number, digest=hashlib.sha256(content).hexdigest()),
                previous=body["previous"],
                data_version=body["data_version"],
                records=tuple(map(_from_json, body["records"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged from error

    def _mac(self, body: dict[str, Any]) -> str:
        return hmac.new(self._key, _canonical(body), hashlib.sha256).hexdigest()


def open_ledger(root: str, pseudonyms: Pseudonyms) -> Ledger:
    """Open the installation's directory in the ledger at this path or fsspec URL.

    Installations with different hash keys can share a root.
    """
    return Ledger(open_objects(root, pseudonyms.fingerprint()[:16]), pseudonyms.ledger_key())


def open_objects(root: str, directory: str) -> LedgerObjects:
    """Return the objects in the directory of this path or fsspec URL."""
    if "://" not in root and "::" not in root:
        return LocalObjects(Path(root) / directory)
    file_system, base = fsspec.core.url_to_fs(root)
    return RemoteObjects(file_system, f"{str(base).rstrip('/')}/{directory}")


class LocalObjects:
    """Objects as files of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = write_beside(path, content)
        try:
            os.link(temporary, path)  # Fails if the file exists, and never shows a part of it.
        finally:
            temporary.unlink()
        sync(path.parent)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def names(self, directory: str) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(
                path.name
                for path in (self._root / directory).iterdir()
                if not path.name.startswith(".")
            )
        return []


class RemoteObjects:
    """Objects in a remote store of fsspec."""

    def __init__(self, file_system: Any, base: str) -> None:
        self._files = file_system
        self._base = base

    def create(self, name: str, content: bytes) -> None:
        # The data lock excludes other writers of this installation, so that no other process
        # creates the object between the two calls. Not all stores have a conditional write.
        path = f"{self._base}/{name}"
        self._files.invalidate_cache()
        if self._files.exists(path):
            raise FileExistsError(name)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        self._files.pipe_file(path, content)

    def read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(f"{self._base}/{name}"))

    def exists(self, name: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.exists(f"{self._base}/{name}"))

    def names(self, directory: str) -> list[str]:
        self._files.invalidate_cache()
        with suppress(FileNotFoundError):
            paths = self._files.ls(f"{self._base}/{directory}", detail=False)
            return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return []


def _name(number: int) -> str:
    return f"{_ENTRIES}/{number // _BUCKET:09d}/{number:012d}.json"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _to_json(record: LedgerRecord) -> dict[str, Any]:
    return {
        "event": record.event.value,
        "at": record.at.isoformat(),
        "request_id": record.request_id,
        "scope": None if record.scope is None else record.scope.value,
        "subject_hashes": sorted(record.subject_hashes),
        "facts": record.facts,
    }


def _from_json(value: dict[str, Any]) -> LedgerRecord:
    return LedgerRecord(
        event=LedgerEvent(value["event"]),
        at=datetime.fromisoformat(value["at"]),
        request_id=value["request_id"],
        scope=None if value["scope"] is None else Scope(value["scope"]),
        subject_hashes=tuple(value["subject_hashes"]),
        facts=value["facts"],
    )
