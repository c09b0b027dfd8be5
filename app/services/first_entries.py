"""Write the first ledger entries of an installation that has deletion requests already."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord
from app.domain.requests import Assurance, RequestStatus, Scope
from app.services.certificates import envelope_digest
from app.services.ledger import accepted_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from app.domain.ledger import LedgerEntry
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.ledger import Ledger
    from app.storage.unit_of_work import UnitOfWork

#: Number of records per entry, and of requests per query.
_PORTION: Final = 500


def record_present(
    uow: UnitOfWork, ledger: Ledger, pseudonyms: Pseudonyms, known: Sequence[LedgerEntry]
) -> int:
    """Append entries for the requests that the ledger does not know; return the number of entries.

    The entries become valid with the head that this transaction commits. After a crash, they are
    in `known` at the next start.
    """
    known_ids = {
        record.request_id
        for entry in known
        for record in entry.records
        if record.event is LedgerEvent.ACCEPTED
    }
    head = uow.state.ledger_head() or LedgerHead()
    first = head
    version = uow.state.data_version()
    records = _records(uow, pseudonyms, known_ids)
    while portion := list(islice(records, _PORTION)):
        head = ledger.append(head, portion, version)
    if head != first:
        uow.state.write_ledger_head(head)
    return head.number - first.number


def _records(
    uow: UnitOfWork, pseudonyms: Pseudonyms, known_ids: set[str | None]
) -> Iterator[LedgerRecord]:
    lifted = uow.suppressions.lifted()
    newest_id = ""
    while requests := uow.requests.after(newest_id, _PORTION):
        newest_id = requests[-1].id
        lifted_at = uow.suppressions.lifted_since(request.id for request in requests)
        for request in requests:
            if request.id in known_ids:
                continue
            yield from _of_request(uow, pseudonyms, request)
            if request.id in lifted:
                # With the request: the database may have a later deletion of the same person.
                yield LedgerRecord(
                    event=LedgerEvent.CONSENTED,
                    at=lifted_at[request.id],
                    request_id=request.id,
                    subject_hashes=tuple(lifted[request.id]),
                )


def _of_request(
    uow: UnitOfWork, pseudonyms: Pseudonyms, request: ForgetRequest
) -> Iterator[LedgerRecord]:
    """Yield the records that a request would have by now without consent, in their order."""
    now = uow.state.now()

    def record(
        event: LedgerEvent, facts: dict[str, Any], at: datetime | None = None
    ) -> LedgerRecord:
        return LedgerRecord(
            event=event,
            at=at or now,
            request_id=request.id,
            scope=request.scope,
            subject_hashes=request.subject_hashes,
            facts=facts,
        )

    owner = None
    if request.scope is Scope.USER_ITEMS and request.subject and request.subject.user_id:
        owner = pseudonyms.user(request.subject.user_id)
    yield record(LedgerEvent.ACCEPTED, accepted_facts(request, owner))
    if request.status is RequestStatus.CANCELLED:
        yield record(LedgerEvent.CANCELLED, {})
    if request.status is RequestStatus.COMPLETED:
        envelopes = [each.envelope for each in uow.certificates.of_request(request.id)]
        facts = {
            "job": request.job_id,
            "release": request.release,
            "certificate": envelope_digest(envelopes[0]) if envelopes else None,
            "completed_at": None
            if request.completed_at is None
            else request.completed_at.isoformat(),
        }
        yield record(LedgerEvent.COMPLETED, facts, request.completed_at)
    if request.assurance is Assurance.EXACT:
        yield record(LedgerEvent.EXACT, {"job": request.exact_job_id}, request.exact_at)
