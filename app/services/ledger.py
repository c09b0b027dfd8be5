"""Record what happens to deletion requests in the erasure ledger.

Each function adds a record to the entry of the present transaction, which is written before the
transaction commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.ledger import LedgerEvent, LedgerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork


def record_accepted(uow: UnitOfWork, request: ForgetRequest, owner: str | None = None) -> None:
    """Record a new request. `owner` is the keyed hash of the user of a request of pairs."""
    facts = accepted_facts(request, owner)
    _record(uow, LedgerEvent.ACCEPTED, request, facts, at=request.created_at)


def accepted_facts(request: ForgetRequest, owner: str | None = None) -> dict[str, Any]:
    """Return what a restored database needs to know of a request.

    The caller's texts are left out, because an entry of the ledger can never be changed.
    """
    facts = {
        "reason": request.reason.value,
        "created_at": request.created_at.isoformat(),
        "due_at": request.due_at.isoformat(),
        "cancellable_until": request.cancellable_until.isoformat(),
        "exact_due_at": None if request.exact_due_at is None else request.exact_due_at.isoformat(),
    }
    # Without the user, only the hashes of all stored pairs would show the pairs.
    return facts if owner is None else {**facts, "owner": owner}


def record_cancelled(uow: UnitOfWork, request: ForgetRequest) -> None:
    """Record that the request was cancelled."""
    _record(uow, LedgerEvent.CANCELLED, request, {})


def record_completed(uow: UnitOfWork, request: ForgetRequest, facts: dict[str, Any]) -> None:
    """Record a completed request. `facts` name the job, the release and the certificate."""
    _record(uow, LedgerEvent.COMPLETED, request, facts)


def record_exact(uow: UnitOfWork, request: ForgetRequest, facts: dict[str, Any]) -> None:
    """Record that a completed request became exact. `facts` are as in `record_completed`."""
    _record(uow, LedgerEvent.EXACT, request, facts, at=request.exact_at)


def record_consent(uow: UnitOfWork, lifted_hashes: Iterable[str]) -> None:
    """Record that suppressions of these keyed hashes were lifted."""
    uow.record(
        LedgerRecord(
            event=LedgerEvent.CONSENTED, at=uow.state.now(), subject_hashes=tuple(lifted_hashes)
        )
    )


def _record(
    uow: UnitOfWork,
    event: LedgerEvent,
    request: ForgetRequest,
    facts: dict[str, Any],
    at: datetime | None = None,
) -> None:
    uow.record(
        LedgerRecord(
            event=event,
            at=at or uow.state.now(),
            request_id=request.id,
            scope=request.scope,
            subject_hashes=request.subject_hashes,
            facts=facts,
        )
    )
