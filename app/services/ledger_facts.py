"""Read what the whole erasure ledger states, and compare a database with it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import LedgerDamagedError
from app.domain.ledger import LedgerEvent, LedgerHead
from app.domain.requests import Assurance, RequestStatus, Scope
from app.domain.restore_check import Finding, KnownDeletion, Severity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from app.domain.ledger import LedgerEntry, LedgerRecord
    from app.domain.requests import ForgetRequest

#: Code → text of what a database lacks.
_TEXTS: Final = {
    "missing": "deletions that the database lacks: {n}",
    "older": "deletions that are completed in the ledger only: {n}",
    "repeating": "deletions that are being repeated: {n}",
    "cancellations": "cancellations that the database lacks: {n}",
    "exact": "deletions whose exact training the database lacks: {n}",
}


@dataclass(slots=True, kw_only=True)
class LedgerFacts:
    """The final state of every request in the ledger, and the newest consent of every hash."""

    #: The last entry that could be read and verified.
    head: LedgerHead = field(default_factory=LedgerHead)
    deletions: dict[str, KnownDeletion] = field(default_factory=dict)
    consented_at: dict[str, datetime] = field(default_factory=dict)
    #: Number of an entry → its digest, to find the database's head.
    digests: dict[int, str] = field(default_factory=dict)
    #: Keyed hash → the requests that suppress the hash according to the ledger.
    _suppressing: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _records: list[tuple[int, LedgerRecord]] = field(default_factory=list)

    def read(self, entries: Iterable[LedgerEntry]) -> None:
        """Add the entries after `head`; stop at the first damaged entry."""
        # `app.services.ledger_check` reports the damage.
        with suppress(LedgerDamagedError):
            for entry in entries:
                self.head = entry.head
                self.digests[entry.head.number] = entry.head.digest
                self._records += ((entry.head.number, record) for record in entry.records)
        self._apply_all()

    def suppresses(self, subject_hash: str) -> bool:
        """Return whether the hash is suppressed according to the ledger."""
        return bool(self._suppressing.get(subject_hash))

    def _apply_all(self) -> None:
        """Compute the final state from the records that no later record declares void."""
        self.deletions.clear()
        self.consented_at.clear()
        self._suppressing.clear()
        voided = {
            (record.facts.get("entry"), record.request_id)
            for _, record in self._records
            if record.event is LedgerEvent.VOID
        }
        for number, record in self._records:
            if record.event is LedgerEvent.VOID or (number, record.request_id) in voided:
                continue
            if record.event is LedgerEvent.CONSENTED:
                for subject_hash in record.subject_hashes:
                    if record.request_id is None:
                        self._suppressing[subject_hash].clear()
                    self._suppressing[subject_hash].discard(record.request_id or "")
                    self.consented_at[subject_hash] = record.at
            elif record.request_id is not None:
                self._apply(record, record.request_id)

    def _apply(self, record: LedgerRecord, request_id: str) -> None:
        known = self.deletions.get(request_id) or KnownDeletion(
            request_id=request_id,
            scope=record.scope or Scope.USER,
            subject_hashes=record.subject_hashes,
            requested_at=record.at,
        )
        if record.event is LedgerEvent.ACCEPTED:
            for subject_hash in record.subject_hashes:
                self._suppressing[subject_hash].add(request_id)
        elif record.event is LedgerEvent.CANCELLED:
            for subject_hash in known.subject_hashes:
                self._suppressing[subject_hash].discard(request_id)
            known = replace(known, is_cancelled=True)
        elif record.event is LedgerEvent.COMPLETED:
            # A deletion that was repeated after a restore is approximate again.
            known = replace(known, completed_at=record.at, facts=record.facts, is_exact=False)
        elif record.event is LedgerEvent.EXACT:
            known = replace(known, is_exact=True)
        self.deletions[request_id] = known


def compare_requests(
    facts: LedgerFacts, stored: Mapping[str, ForgetRequest], suppressed: Collection[str]
) -> list[Finding]:
    """Return what the database lacks of the ledger. `suppressed` has its suppressed hashes."""
    missing: dict[str, list[str]] = {}
    for deletion in facts.deletions.values():
        code = _difference(deletion, stored.get(deletion.request_id))
        if code is not None:
            missing.setdefault(code, []).append(deletion.request_id)
    findings = [
        Finding(
            code=code,
            severity=Severity.REPEAT,
            text=text.format(n=len(missing[code])),
            request_ids=tuple(sorted(missing[code])),
        )
        for code, text in _TEXTS.items()
        if code in missing
    ]
    consents = sum(h in suppressed and not facts.suppresses(h) for h in facts.consented_at)
    if consents:
        text = f"consents that the database lacks: {consents}"
        findings.append(Finding(code="consents", severity=Severity.REPEAT, text=text))
    return findings


def _difference(deletion: KnownDeletion, request: ForgetRequest | None) -> str | None:
    """Return the code of what the database lacks of this deletion, or None."""
    if request is None:
        return "cancellations" if deletion.is_cancelled else "missing"
    if deletion.completed_at is None:
        is_older = deletion.is_cancelled and request.status is not RequestStatus.CANCELLED
        return "cancellations" if is_older else None
    if request.status is not RequestStatus.COMPLETED:
        return "repeating" if request.restored else "older"
    return "exact" if deletion.is_exact and request.assurance is not Assurance.EXACT else None
