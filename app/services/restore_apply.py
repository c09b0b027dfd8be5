"""Record deletions that only saved certificates prove.

`lethe restore-check --apply` calls this, because the service itself reads no saved certificates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.ledger import LedgerEntry, LedgerEvent, LedgerHead, LedgerRecord
from app.domain.requests import RequestStatus
from app.services.restore import apply_entries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.restore_check import KnownDeletion
    from app.services.ledger_facts import LedgerFacts
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


def repeat_certified(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    deletions: Iterable[KnownDeletion],
    ledger: LedgerFacts,
) -> list[str]:
    """Repeat the deletions that the database lacks, and record them in the ledger.

    Return the ids of the requests. The database has applied the ledger before. A deletion that the
    ledger has as completed, and one whose person has consented since, changes nothing.
    """
    uow.state.lock()
    missing = [one for one in deletions if _is_missing(uow, one, ledger)]
    if not missing:
        return []
    records = [record for one in missing for record in _records(one, ledger)]
    entry = LedgerEntry(
        # Not the number of an entry: the records get the next entry when this transaction ends.
        head=LedgerHead(),
        previous="",
        data_version=uow.state.data_version(),
        records=tuple(records),
    )
    apply_entries(uow, pseudonyms, settings, [entry])
    for record in records:
        uow.record(record)
    return [one.request_id for one in missing]


def _is_missing(uow: UnitOfWork, deletion: KnownDeletion, ledger: LedgerFacts) -> bool:
    in_ledger = ledger.deletions.get(deletion.request_id)
    at = deletion.completed_at
    if at is None or (in_ledger is not None and in_ledger.completed_at is not None):
        return False
    if all(ledger.consented_at.get(h, at) > at for h in deletion.subject_hashes):
        return False
    request = uow.requests.find(deletion.request_id)
    if request is None:
        return True
    is_same = {*deletion.subject_hashes} <= {*request.subject_hashes}
    has_ended = request.status in {RequestStatus.COMPLETED, RequestStatus.CANCELLED}
    return is_same and not has_ended and not request.restored


def _records(deletion: KnownDeletion, ledger: LedgerFacts) -> list[LedgerRecord]:
    """Return the records of the deletion that the ledger lacks."""
    accepted = LedgerRecord(
        event=LedgerEvent.ACCEPTED,
        at=deletion.requested_at,
        request_id=deletion.request_id,
        scope=deletion.scope,
        subject_hashes=deletion.subject_hashes,
        facts={"created_at": deletion.requested_at.isoformat()},
    )
    completed = LedgerRecord(
        event=LedgerEvent.COMPLETED,
        at=deletion.completed_at or deletion.requested_at,
        request_id=deletion.request_id,
        scope=deletion.scope,
        subject_hashes=deletion.subject_hashes,
        facts=deletion.facts,
    )
    return [completed] if deletion.request_id in ledger.deletions else [accepted, completed]
