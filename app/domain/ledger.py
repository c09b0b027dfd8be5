"""The erasure ledger: what happened to deletion requests, kept outside database and artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.requests import Scope

#: `previous` of the first entry.
NO_DIGEST: Final = "0" * 64


class LedgerEvent(StrEnum):
    """The kinds of records.

    `accepted`, `cancelled`, `completed` and `exact` concern a request, `consented` lifts keyed
    hashes, and `void` states that an earlier entry, whose transaction did not commit, has no
    effect.
    """

    ACCEPTED = "accepted"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    EXACT = "exact"
    CONSENTED = "consented"
    VOID = "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """An event. A record names persons and items by keyed hashes only, never by id."""

    event: LedgerEvent
    at: datetime
    #: The event `consented` has None, and the request if only its hashes were lifted.
    request_id: str | None = None
    scope: Scope | None = None
    subject_hashes: tuple[str, ...] = ()
    #: More facts as JSON values, such as the release and the digest of the certificate.
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHead:
    """A position in the ledger: the number of an entry, and the SHA-256 of the entry's bytes."""

    number: int = 0
    digest: str = NO_DIGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """The records of one transaction. Entry number n names the digest of entry n - 1."""

    head: LedgerHead
    previous: str
    #: The data version of the database in that transaction.
    data_version: int
    records: tuple[LedgerRecord, ...]
