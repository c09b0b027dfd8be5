"""Apply ledger entries that the database lacks, in their order.

`ForgetRequest.recovered` keeps what the later work needs: it is not None for each request that was
changed here. `sha256`, `completed_at` and `release` describe the certificate of a deletion that is
repeated, `exact` tells that its exact training is lost too, and `lift` has the keyed hashes that
consent had lifted after the deletion.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.domain.jobs import Stage
from app.domain.ledger import LedgerEvent, LedgerRecord
from app.domain.outbox import Topic
from app.domain.requests import (
    IN_JOB_STATUSES,
    OPEN_STATUSES,
    Assurance,
    ForgetRequest,
    RequestReason,
    RequestStatus,
    Scope,
)
from app.services.deadlines import Deadlines
from app.services.forget import withdraw

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from app.domain.ledger import LedgerEntry
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

_R = RequestStatus


class EntryApplier:
    """Applies entries in one transaction, and remembers what they changed."""

    def __init__(
        self,
        uow: UnitOfWork,
        settings: Settings,
        *,
        last_number: int,
        voided: AbstractSet[tuple[int, str | None]],
    ) -> None:
        """Take the number of the last entry, and (entry, request) of each void record."""
        self._uow = uow
        self._settings = settings
        self._last_number = last_number
        self._voided = voided
        #: Request id → keyed hash of the owner of pairs, where the ledger has the hash.
        self.inserted: dict[str, str | None] = {}
        self.repeated: set[str] = set()
        self.cancelled = self.consented = self.void = 0

    @property
    def without_subject(self) -> dict[str, str | None]:
        """Return the inserted requests that are open, with the keyed hashes of their owners."""
        requests = (
            (self._uow.requests.get(request_id), owner)
            for request_id, owner in self.inserted.items()
        )
        return {r.id: owner for r, owner in requests if r.status in OPEN_STATUSES}

    def apply(self, entry: LedgerEntry) -> None:
        """Apply the entry's records. A record without an effect gets a void record."""
        for record in entry.records:
            is_void = not self._voided.isdisjoint(
                {(entry.head.number, record.request_id), (entry.head.number, None)}
            )
            if is_void or record.event is LedgerEvent.VOID:
                continue
            is_last = entry.head.number == self._last_number
            if not self._apply(record, is_last=is_last):
                self._write_void(entry, record)

    def _apply(self, record: LedgerRecord, *, is_last: bool) -> bool:
        """Apply a record; return False if the record can have no effect any more."""
        if record.event is LedgerEvent.CONSENTED:
            self._consent(record)
            return True
        request = self._uow.requests.find(record.request_id or "")
        if request is None:
            request = self._insert(record)
        if record.event is LedgerEvent.CANCELLED:
            return self._cancel(request)
        if record.event is LedgerEvent.COMPLETED:
            return self._repeat(request, record, is_last=is_last)
        if record.event is LedgerEvent.EXACT:
            return self._repeat_exact(request, record, is_last=is_last)
        return True

    def _insert(self, record: LedgerRecord) -> ForgetRequest:
        """Insert the request without plain ids, and suppress its subject."""
        created_at = _time(record.facts.get("created_at")) or record.at
        deadlines = Deadlines.of(self._settings, created_at)
        scope = record.scope or Scope.USER
        owner = record.facts.get("owner")
        request = ForgetRequest(
            id=record.request_id or "",
            scope=scope,
            subject=None,
            subject_hashes=record.subject_hashes,
            user_hash=record.subject_hashes[0] if scope is Scope.USER else owner,
            reason=RequestReason(record.facts.get("reason", RequestReason.USER_REQUEST)),
            status=_R.SCHEDULED,
            created_at=created_at,
            due_at=_time(record.facts.get("due_at")) or deadlines.due_at,
            exact_due_at=_time(record.facts.get("exact_due_at")) or deadlines.exact_due_at,
            cancellable_until=_time(record.facts.get("cancellable_until")) or created_at,
            recovered={},
        )
        self._uow.requests.add(request)
        self._uow.suppressions.add(request.subject_hashes, request)
        self._uow.outbox.add(Topic.REQUEST, request.id)
        self.inserted[request.id] = owner
        return request

    def _cancel(self, request: ForgetRequest) -> bool:
        if request.status is _R.CANCELLED:
            return True
        if request.status is _R.ON_HOLD:
            self._uow.requests.change_status(request, [_R.ON_HOLD], status=_R.SCHEDULED)
            request = self._uow.requests.get(request.id)
        if request.status is not _R.SCHEDULED or not withdraw(self._uow, request):
            return False
        self.cancelled += 1
        return True

    def _repeat(self, request: ForgetRequest, record: LedgerRecord, *, is_last: bool) -> bool:
        """Repeat a completed deletion: the rows may be stored, and the weights may know them."""
        if request.status is _R.COMPLETED:
            return True
        if is_last and self._is_open_job(record.facts.get("job"), request):
            return False  # The transaction did not commit, so the job completes the request.
        if request.status is _R.CANCELLED:
            self._uow.suppressions.add(request.subject_hashes, request)
        recovered = {
            **(request.recovered or {}),
            "sha256": record.facts.get("certificate"),
            "completed_at": record.at.isoformat(),
            "release": record.facts.get("release"),
        }
        in_job = request.status in IN_JOB_STATUSES and request.job_id is not None
        self._uow.requests.repeat(request.id, recovered, in_job=in_job)
        self._uow.outbox.add(Topic.REQUEST, request.id)
        self.repeated.add(request.id)
        return True

    def _repeat_exact(self, request: ForgetRequest, record: LedgerRecord, *, is_last: bool) -> bool:
        """Mark the request, so that a renewal starts at once."""
        if request.assurance is Assurance.EXACT:
            return True
        if is_last and self._is_open_job(record.facts.get("job"), None):
            return False
        recovered: dict[str, Any] = {**(request.recovered or {}), "exact": True}
        self._uow.requests.write_recovered(request.id, recovered, restored=True)
        return True

    def _is_open_job(self, job_id: str | None, request: ForgetRequest | None) -> bool:
        """Return whether the record is of an open job that is about to write such records.

        In an earlier stage, the database is certainly older than the record.
        """
        job = self._uow.jobs.open_job()
        if job is None or job.id != job_id or job.stage is not Stage.CERTIFY:
            return False
        return request is None or request.job_id == job_id

    def _consent(self, record: LedgerRecord) -> None:
        """Lift suppressions now, or after the deletion that is repeated before the consent."""
        for subject_hash in record.subject_hashes:
            for request in self._uow.requests.suppressing([subject_hash]):
                if record.request_id not in {None, request.id}:
                    continue
                if request.status not in OPEN_STATUSES:
                    self._uow.suppressions.lift_of(request.id, [subject_hash])
                    continue
                recovered = dict(request.recovered or {})
                recovered["lift"] = sorted({*recovered.get("lift", ()), subject_hash})
                self._uow.requests.write_recovered(request.id, recovered)
        self.consented += 1

    def _write_void(self, entry: LedgerEntry, record: LedgerRecord) -> None:
        self._uow.record(
            LedgerRecord(
                event=LedgerEvent.VOID,
                at=self._uow.state.now(),
                request_id=record.request_id,
                facts={"entry": entry.head.number, "event": record.event.value},
            )
        )
        self.void += 1


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
