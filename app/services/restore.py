"""Compare the database with the erasure ledger, and apply what a restored database lacks.

Every process calls `open_data` when it opens an installation, and `reconcile` when the ledger is
ahead of the database. The ledger is ahead if the database was restored from a backup, or if a
transaction wrote its entry and did not commit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import JobNotCancellableError, LedgerAheadError, LedgerDamagedError
from app.domain.jobs import CANCELLED_BY_RESTORE, JobKind
from app.domain.ledger import LedgerEvent, LedgerHead
from app.services import jobs
from app.services.first_entries import record_present
from app.services.identity import open_identity
from app.services.restored_entries import EntryApplier
from app.services.restored_subjects import find_subjects
from app.services.secrets import check_hash_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.ledger import LedgerEntry
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.ledger import Ledger
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

_log = structlog.get_logger(__name__)
#: Imports after the backup raised the data version without an entry in the ledger. The gap keeps
#: the versions of later changes above those, which caches and entity tags may still name.
_VERSION_GAP: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What `reconcile` did. All numbers are 0 if the database and the ledger agreed."""

    #: Number of ledger entries that were applied to the database.
    entries: int = 0
    #: Number of ledger entries that were written for requests from before the ledger.
    first_entries: int = 0
    inserted: int = 0
    cancelled: int = 0
    consented: int = 0
    #: Number of deletions that are repeated, and of those whose person or item is not stored.
    repeated: int = 0
    not_stored: int = 0
    #: Number of records without an effect.
    void: int = 0


def open_data(
    uow: UnitOfWork, ledger: Ledger | None, pseudonyms: Pseudonyms, settings: Settings
) -> Reconciled:
    """Check the hash key, the ledger and the id rule against the database, and reconcile.

    A process without a ledger, which never changes requests, compares nothing with the ledger.
    Raises KeyMismatchError, IdRuleMismatchError, LedgerDamagedError or LedgerUnavailableError.
    """
    check_hash_key(uow, pseudonyms)
    applied = Reconciled()
    if ledger is None:
        open_identity(uow, pseudonyms, settings)
        return applied
    if uow.identity.rule() is None and ledger.is_ahead(uow.state.ledger_head() or LedgerHead()):
        # The database has ids as callers spelled them, and the hashes are of these spellings.
        applied = reconcile(uow, ledger, pseudonyms, settings)
    open_identity(uow, pseudonyms, settings)
    reconciled = reconcile(uow, ledger, pseudonyms, settings)
    return reconciled if reconciled != Reconciled() else applied


def reconcile(
    uow: UnitOfWork, ledger: Ledger, pseudonyms: Pseudonyms, settings: Settings
) -> Reconciled:
    """Apply the ledger entries that the database lacks, in this transaction, and advance the head.

    Writes the first entries for requests from before the ledger. Several processes may call this
    at once, and a call that is interrupted is repeated. Raises LedgerDamagedError if the ledger
    lacks the entry of the head or one before its last, and LedgerUnavailableError.
    """
    head = uow.state.ledger_head()
    _check_head(ledger, head)
    if head is not None and not ledger.is_ahead(head):
        _check_end(ledger, head)
        return Reconciled()
    uow.state.allow_long()  # A restored database may lack any number of entries.
    uow.state.lock()
    head = uow.state.ledger_head()  # Another process may have reconciled before the lock.
    missing = list(ledger.entries(head or LedgerHead()))
    _check_end(ledger, missing[-1].head if missing else head or LedgerHead())
    reconciled = Reconciled()
    if missing:
        reconciled = apply_entries(uow, pseudonyms, settings, missing)
        uow.state.write_ledger_head(missing[-1].head)
    if head is None:
        written = record_present(uow, ledger, pseudonyms, missing)
        reconciled = replace(reconciled, first_entries=written)
    if reconciled != Reconciled():
        numbers = {name: getattr(reconciled, name) for name in Reconciled.__slots__}
        _log.warning("ledger.reconciled", data_version=uow.state.data_version(), **numbers)
    return reconciled


def reconcile_installation(
    factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, settings: Settings
) -> bool:
    """Reconcile in a transaction of its own if the ledger is ahead; return whether data changed.

    The check costs one query and two look-ups in the ledger. Raises LedgerDamagedError and
    LedgerUnavailableError.
    """
    ledger = factory.ledger
    if ledger is None:
        return False
    # A replica compares before it renews its lease, so this must not wait for other queries.
    with factory.lease(write=False) as uow:
        head = uow.state.ledger_head()
    _check_head(ledger, head)
    if not ledger.is_ahead(head or LedgerHead()):
        return False
    with factory() as uow:
        return reconcile(uow, ledger, pseudonyms, settings) != Reconciled()


def reconciler(
    pseudonyms: Pseudonyms, settings: Settings
) -> Callable[[UnitOfWork, Ledger], Reconciled]:
    """Return `reconcile` for this installation, which units of work call when they are stopped."""

    def call(uow: UnitOfWork, ledger: Ledger) -> Reconciled:
        return reconcile(uow, ledger, pseudonyms, settings)

    return call


def require_current(uow: UnitOfWork, ledger: Ledger | None) -> None:
    """Raise LedgerAheadError if the ledger has entries that this database lacks."""
    if ledger is not None and ledger.is_ahead(uow.state.ledger_head() or LedgerHead()):
        raise LedgerAheadError


def _check_head(ledger: Ledger, head: LedgerHead | None) -> None:
    if head is None or head.number == 0:
        return
    entry = ledger.entry(head.number)
    if entry is None:
        raise LedgerDamagedError(
            reason=f"the database knows entry {head.number}, and the ledger does not have it"
        )
    if entry.head != head:
        raise LedgerDamagedError(
            reason=f"entry {head.number} is not the entry that the database knows"
        )


def _check_end(ledger: Ledger, head: LedgerHead) -> None:
    """Raise LedgerDamagedError if there are entries after `head`, but not the next one.

    Nothing would apply the deletions in these entries.
    """
    last_number = ledger.last_number()
    # Another process may have written the next entry since the look-up.
    if last_number > head.number and not ledger.is_ahead(head):
        raise LedgerDamagedError(
            reason=f"entry {head.number + 1} is missing, and the ledger has entry {last_number}"
        )


def apply_entries(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, missing: Sequence[LedgerEntry]
) -> Reconciled:
    """Apply the entries to the database, in their order. The caller holds the data lock."""
    voided = {
        (record.facts["entry"], record.request_id)
        for entry in missing
        for record in entry.records
        if record.event is LedgerEvent.VOID
    }
    applier = EntryApplier(uow, settings, last_number=missing[-1].head.number, voided=voided)
    for entry in missing:
        applier.apply(entry)
    not_stored = find_subjects(uow, pseudonyms, applier.without_subject)
    # Only a restored database lacks several entries, or a completed deletion.
    is_restored = len(missing) > 1 or bool(applier.repeated)
    newest = max(entry.data_version for entry in missing)
    uow.state.raise_above(newest + (_VERSION_GAP if is_restored else 0))
    # Replicas rebuild their statistics, and answers that are being computed are discarded.
    uow.state.bump("forget")
    uow.state.write_restoring(uow.requests.count_repeated())
    if applier.repeated:
        _cancel_training(uow)
    return Reconciled(
        entries=len(missing),
        inserted=len(applier.inserted),
        cancelled=applier.cancelled,
        consented=applier.consented,
        repeated=len(applier.repeated),
        not_stored=not_stored,
        void=applier.void,
    )


def _cancel_training(uow: UnitOfWork) -> None:
    """Cancel the open job unless it carries out deletions: the repeated deletions come first."""
    job = uow.jobs.open_job()
    if job is None or job.kind is JobKind.FORGET:
        return
    try:
        jobs.cancel(uow, job.id, CANCELLED_BY_RESTORE)
    except JobNotCancellableError:
        return  # Its release is live already, and only its last stages are left.
    _log.warning("ledger.training_cancelled", job=job.id)
