"""Record a list of deletions, and die by SIGKILL between a ledger entry and its commit.

Arguments: the number of the entry of this process after which the process dies, the idempotency
key, and the users.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from app.services import forget_lists
from app.services.forget_lists import ListCommand, ListRecorder
from app.services.secrets import load_pseudonyms
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.ledger import Ledger, open_ledger
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.ledger import LedgerHead, LedgerRecord

last_entry, key, user_ids = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
append = Ledger.append
appended: list[LedgerHead] = []


def append_and_die(
    self: Ledger, head: LedgerHead, records: Iterable[LedgerRecord], data_version: int
) -> LedgerHead:
    appended.append(append(self, head, records, data_version))
    if len(appended) == last_entry:
        os.kill(os.getpid(), signal.SIGKILL)
    return appended[-1]


Ledger.append = append_and_die  # type: ignore[method-assign] # this process ends in it
forget_lists.CHUNK = 10  # type: ignore[misc] # small chunks make the test quick
settings = Settings()
pseudonyms = load_pseudonyms(settings)
recorder = ListRecorder(
    factory=UnitOfWorkFactory(
        make_database(settings.sqlalchemy_url), open_ledger(settings.ledger_root, pseudonyms)
    ),
    pseudonyms=pseudonyms,
    settings=settings,
    on_chunk=lambda: None,
    is_stopping=lambda: False,
)
recorder.record(ListCommand(rows=user_ids), key)
sys.exit("the process did not die")
