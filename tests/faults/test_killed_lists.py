"""A process that is killed while it records a list loses no request, and the list continues."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.forget_lists import ListStatus, RowOutcome
from app.services.forget_lists import ListCommand, ListRecorder
from app.services.restore import reconciler
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "support" / "killed_in_list.py"
USERS = [f"listed{number}" for number in range(35)]


@pytest.mark.parametrize("last_entry", [1, 3, 4])
def test_killed_list_continues_with_its_key(installation: Installation, last_entry: int) -> None:
    context = installation.context
    with context.uow_factory() as uow:
        uow.people.ensure_users(USERS)
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(last_entry), "key", *USERS],
        env=installation.environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    committed = 10 * (last_entry - 1)
    hashes = {user_id: context.pseudonyms.user(user_id) for user_id in USERS}
    with context.uow_factory(write=False) as uow:
        suppressed = uow.suppressions.matching(hashes.values())
    assert suppressed == {hashes[user_id] for user_id in USERS[:committed]}

    # A process that lives on reconciles the database with the entry that was not committed.
    ledger = context.uow_factory.ledger
    factory = UnitOfWorkFactory(
        context.database, ledger, reconciler(context.pseudonyms, context.settings)
    )
    recorder = ListRecorder(
        factory=factory,
        pseudonyms=context.pseudonyms,
        settings=context.settings,
        on_chunk=lambda: None,
        is_stopping=lambda: False,
    )
    forget_list, recorded_any = recorder.record(ListCommand(rows=USERS), "key")
    assert recorded_any
    assert forget_list.status is ListStatus.RECORDED
    with factory(write=False) as uow:
        results = uow.forget_lists.results(forget_list.id, 0, 100)
        assert uow.suppressions.matching(hashes.values()) == set(hashes.values())
        for entry, user_id in zip(results, USERS, strict=True):
            (request,) = uow.requests.suppressing([hashes[user_id]])
            assert entry.result.request_id == request.id
    outcomes = {entry.row: entry.result.outcome for entry in results}
    # The killed chunk was accepted either by its ledger entry or by the repeated call.
    assert set(outcomes.values()) <= {RowOutcome.ACCEPTED, RowOutcome.COVERED}
    assert all(outcomes[row] is RowOutcome.ACCEPTED for row in range(1, committed + 1))
