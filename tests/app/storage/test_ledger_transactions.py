"""A transaction and its ledger entry: no number is lost or used twice."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import (
    LedgerAheadError,
    LedgerDamagedError,
    LedgerUnavailableError,
)
from app.domain.ledger import LedgerHead
from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory
from tests.support.ledgers import RECORD, append

if TYPE_CHECKING:
    from app.storage.engine import Database
    from app.storage.ledger import Ledger

ROOT = Path(__file__).parents[3]
WRITER = ROOT / "tests" / "support" / "ledger_writer.py"


def write_entries(factory: UnitOfWorkFactory, count: int) -> None:
    for _ in range(count):
        with factory() as uow:
            uow.state.bump("interactions")
            uow.record(RECORD)


def check_all_counted(factory: UnitOfWorkFactory, ledger: Ledger, count: int) -> None:
    entries = list(ledger.entries(LedgerHead()))
    assert [entry.head.number for entry in entries] == list(range(1, count + 1))
    assert [entry.data_version for entry in entries] == list(range(1, count + 1))
    with factory() as uow:
        assert uow.state.ledger_head() == entries[-1].head


def test_threads_lose_no_number(uow_factory: UnitOfWorkFactory) -> None:
    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(write_entries, uow_factory, 10) for _ in range(8)]:
            result.result()
    assert uow_factory.ledger is not None
    check_all_counted(uow_factory, uow_factory.ledger, 80)


def test_processes_lose_no_number(
    database: Database, uow_factory: UnitOfWorkFactory, tmp_path: Path
) -> None:
    url = database.write.url.render_as_string(hide_password=False)
    command = [sys.executable, str(WRITER), url, str(tmp_path / "ledger"), "25"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert uow_factory.ledger is not None
    check_all_counted(uow_factory, uow_factory.ledger, 75)


def test_unknown_entry_stops_one_transaction_only(database: Database, ledger: Ledger) -> None:
    def adopt(uow: UnitOfWork, adopted: Ledger) -> None:
        uow.state.lock()
        *_, last = adopted.entries(uow.state.ledger_head() or LedgerHead())
        uow.state.write_ledger_head(last.head)

    append(ledger, 3)  # Three transactions did not commit.
    factory = UnitOfWorkFactory(database, ledger, adopt)
    with pytest.raises(LedgerAheadError):
        write_entries(factory, 1)
    with factory() as uow:
        assert uow.state.data_version() == 0
    write_entries(factory, 2)
    assert ledger.last_number() == 5


def test_failing_recovery_is_reported(database: Database, ledger: Ledger) -> None:
    def fail(_uow: UnitOfWork, _ledger: Ledger) -> None:
        raise LedgerDamagedError(reason="an entry is missing")

    append(ledger, 1)
    with pytest.raises(LedgerDamagedError, match="an entry is missing"):
        write_entries(UnitOfWorkFactory(database, ledger, fail), 1)


def test_without_recovery_every_transaction_is_stopped(database: Database, ledger: Ledger) -> None:
    append(ledger, 1)
    factory = UnitOfWorkFactory(database, ledger)
    for _ in range(2):
        with pytest.raises(LedgerAheadError):
            write_entries(factory, 1)


def test_unavailable_ledger_rolls_back(database: Database, ledger: Ledger, root: Path) -> None:
    factory = UnitOfWorkFactory(database, ledger)
    write_entries(factory, 1)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(LedgerUnavailableError):
        write_entries(factory, 1)
    with factory(write=False) as uow:
        assert uow.state.data_version() == 1
    root.with_name("elsewhere").rename(root)
    write_entries(factory, 1)
    check_all_counted(factory, ledger, 2)
