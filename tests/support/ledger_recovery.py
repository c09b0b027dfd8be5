"""Catch up with the ledger in the simplest way: every entry of a lost transaction is void."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord

if TYPE_CHECKING:
    from app.storage.ledger import Ledger
    from app.storage.unit_of_work import UnitOfWork


def void_entries(uow: UnitOfWork, ledger: Ledger) -> None:
    """Advance the head over entries that the database lacks, and record that they have no effect.

    This is right only where a transaction did not commit. A restored database needs the entries.
    """
    uow.state.lock()
    missing = list(ledger.entries(uow.state.ledger_head() or LedgerHead()))
    if missing:
        uow.state.write_ledger_head(missing[-1].head)
        numbers = [entry.head.number for entry in missing]
        uow.record(
            LedgerRecord(event=LedgerEvent.VOID, at=uow.state.now(), facts={"entries": numbers})
        )
