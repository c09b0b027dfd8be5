"""Write entries to the ledger in transactions of their own, as one of several processes.

Arguments: the database URL, the root of the ledger, the number of entries.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from app.domain.ledger import LedgerEvent, LedgerRecord
from app.services.pseudonyms import Pseudonyms
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.unit_of_work import UnitOfWorkFactory

url, root, count = sys.argv[1:]
database = make_database(url)
ledger = open_ledger(root, Pseudonyms(b"a key for tests, thirty-two bytes"))
factory = UnitOfWorkFactory(database, ledger)
record = LedgerRecord(
    event=LedgerEvent.CONSENTED, at=datetime(2026, 1, 1, tzinfo=UTC), subject_hashes=("ab" * 32,)
)
for _ in range(int(count)):
    with factory() as uow:
        uow.state.bump("interactions")
        uow.record(record)
database.dispose()
