"""Names and bytes of the entries of the erasure ledger.

Entry n is the object `entries/BUCKET/n.json`: `{"body": …, "mac": …}` as canonical JSON. The MAC
covers the bytes of the body, and the body holds the digest of entry n - 1.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import LedgerDamagedError
from app.domain.ledger import LedgerEntry, LedgerEvent, LedgerHead, LedgerRecord
from app.domain.requests import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRIES: Final = "entries"
CHECKPOINTS: Final = "checkpoints"
#: Number of entries per directory.
_BUCKET: Final = 1000
_BUCKET_NAME: Final = re.compile(r"[0-9]{9}")
_OBJECT_NAME: Final = re.compile(r"([0-9]{12})\.json")
_START: Final = b'{"body":'
_MIDDLE: Final = b',"mac":"'
_END: Final = b'"}'
#: Length of the bytes after the body: a MAC has 64 hexadecimal digits.
_TAIL_LENGTH: Final = len(_MIDDLE) + 64 + len(_END)


def entry_name(number: int) -> str:
    """Return the name of the object that holds the entry."""
    return f"{ENTRIES}/{number // _BUCKET:09d}/{number:012d}.json"


def checkpoint_name(number: int) -> str:
    """Return the name of the object that holds the checkpoint of the entry."""
    return f"{CHECKPOINTS}/{number:012d}.json"


def is_bucket(name: str) -> bool:
    """Return whether this is the name of a directory of entries."""
    return _BUCKET_NAME.fullmatch(name) is not None


def number_of(name: str, bucket: str | None = None) -> int | None:
    """Return the number in an object's name, or None for a foreign name.

    In a directory of entries, a name that belongs to another directory is foreign as well.
    """
    match = _OBJECT_NAME.fullmatch(name)
    number = 0 if match is None else int(match[1])
    if number == 0 or (bucket is not None and number // _BUCKET != int(bucket)):
        return None
    return number


def encode(
    key: bytes, after: LedgerHead, records: Iterable[LedgerRecord], data_version: int
) -> tuple[bytes, LedgerHead]:
    """Return the bytes of the entry after `after`, and the head that the entry becomes."""
    number = after.number + 1
    body = {
        "number": number,
        "previous": after.digest,
        "data_version": data_version,
        "records": [_to_json(record) for record in records],
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    content = _START + text + _MIDDLE + _mac(key, text) + _END
    return content, LedgerHead(number=number, digest=hashlib.sha256(content).hexdigest())


def decode(key: bytes, number: int, content: bytes) -> LedgerEntry:
    """Return the entry; raise LedgerDamagedError unless the bytes are authentic."""
    text, tail = content[len(_START) : -_TAIL_LENGTH], content[-_TAIL_LENGTH:]
    expected = _MIDDLE + _mac(key, text) + _END
    if not content.startswith(_START) or not hmac.compare_digest(tail, expected):
        raise LedgerDamagedError(reason=f"entry {number} was altered or truncated")
    try:
        body = json.loads(text)
        if body["number"] != number:
            raise LedgerDamagedError(reason=f"entry {number} is a copy of another entry")
        return LedgerEntry(
            head=LedgerHead(number=number, digest=hashlib.sha256(content).hexdigest()),
            previous=body["previous"],
            data_version=body["data_version"],
            records=tuple(map(_from_json, body["records"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        reason = f"entry {number} was written by a newer version of Lethe; use that version"
        raise LedgerDamagedError(reason=reason) from error


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256").hex().encode()


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
