"""Write entries for tests of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord

if TYPE_CHECKING:
    from app.storage.ledger import Ledger

RECORD = LedgerRecord(
    event=LedgerEvent.CONSENTED, at=datetime(2026, 1, 1, tzinfo=UTC), subject_hashes=("ab" * 32,)
)


def append(ledger: Ledger, count: int, head: LedgerHead | None = None) -> LedgerHead:
    """Append entries with one record each, and return the new head."""
    head = head or LedgerHead()
    for number in range(count):
        head = ledger.append(head, [RECORD], number)
    return head
