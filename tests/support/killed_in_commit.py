"""Change a deletion request, and die by SIGKILL between the ledger entry and the commit.

Arguments: the event of the record after which the process dies, and the id that it concerns.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from file_learner import FileLearner

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.suppression import record_consent
from app.settings import Settings
from app.storage.ledger import Ledger
from worker.context import build_context
from worker.loop import run_forever

if TYPE_CHECKING:
    from collections.abc import Iterable

event, argument = LedgerEvent(sys.argv[1]), sys.argv[2]
append = Ledger.append


def append_and_die(
    self: Ledger, head: LedgerHead, records: Iterable[LedgerRecord], data_version: int
) -> LedgerHead:
    records = list(records)
    new_head = append(self, head, records, data_version)
    if any(record.event is event for record in records):
        os.kill(os.getpid(), signal.SIGKILL)
    return new_head


settings = Settings()
context = build_context(settings, FileLearner)
Ledger.append = append_and_die  # type: ignore[method-assign] # this process ends in it
if event is LedgerEvent.COMPLETED:
    run_forever(context, threading.Event(), until_idle=True)
with context.uow_factory() as uow:
    if event is LedgerEvent.ACCEPTED:
        command = ForgetCommand.of(argument, (), None)
        request_forget(uow, context.pseudonyms, settings, command)
    elif event is LedgerEvent.CANCELLED:
        cancel_forget(uow, argument)
    else:
        record_consent(uow, context.pseudonyms, argument)
sys.exit("the process did not die")
