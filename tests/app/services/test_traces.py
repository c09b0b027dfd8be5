"""No database file or table contains the deleted ids after completion and maintenance.

`tests/faults/test_traces_after_completion.py` plants more markers and runs the real worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.catalog import Interaction
from app.domain.jobs import JobStatus, Lease
from app.domain.requests import Outcome
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.forget import ForgetCommand, request_forget
from app.services.interactions import add_interactions
from app.services.jobs import advance, claim, close_batch
from app.settings import Settings
from app.storage.ledger import open_ledger
from app.storage.maintenance import erase_remains
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms
    from app.services.signatures import Signer
    from app.storage.engine import Database

PERSON = "distinctive-person-9f27c1"
ITEM = "distinctive-item-77ab03"


def files_with(directory: Path, needle: str) -> list[str]:
    return sorted(p.name for p in directory.glob("lethe.db*") if needle.encode() in p.read_bytes())


def prepare(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> Lease:
    """Store data, request the deletion of a user and of an item, and claim the job."""
    with factory() as uow:
        uow.people.upsert_items([(ITEM, "An item", {}), ("other", "Another", {})])
        rows = [
            Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=7)
            for user_id in (PERSON, *(f"user {n}" for n in range(300)))
            for item_id in (ITEM, "other")
        ]
        add_interactions(uow, pseudonyms, rows)
    settings = Settings(cancel_window=0.0, batch_size=9, batch_seconds=0.0, method="e2urec")
    for command in (
        ForgetCommand(user_id=PERSON, item_ids=(ITEM,)),
        ForgetCommand(user_id=PERSON),
        ForgetCommand(item_id=ITEM),
    ):
        with factory() as uow:
            request_forget(uow, pseudonyms, settings, command, f"key of {command}")
    with factory() as uow:
        close_batch(uow, settings)
    with factory() as uow:
        claimed = claim(uow, "worker", settings)
    if claimed is None:
        raise RuntimeError("no job can be claimed")
    return claimed[1]


def test_no_sqlite_file_contains_deleted_ids(
    sqlite_database: Database,
    tmp_path: Path,
    pseudonyms: Pseudonyms,
    signer: Signer,
) -> None:
    factory = UnitOfWorkFactory(sqlite_database, open_ledger(str(tmp_path / "ledger"), pseudonyms))
    lease = prepare(factory, pseudonyms)
    assert files_with(tmp_path, PERSON)  # The search works.
    with factory() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
        finish(uow, lease, signer, Evidence(outcome=Outcome.NOT_APPLICABLE))
    assert erase_remains(sqlite_database) is None
    assert files_with(tmp_path, PERSON) == []
    assert files_with(tmp_path, ITEM) == []
    assert files_with(tmp_path, "user 7")


def test_no_table_contains_deleted_ids(
    database: Database,
    tmp_path: Path,
    pseudonyms: Pseudonyms,
    signer: Signer,
    every_row: Callable[[], str],
) -> None:
    factory = UnitOfWorkFactory(database, open_ledger(str(tmp_path / "ledger"), pseudonyms))
    lease = prepare(factory, pseudonyms)
    assert PERSON in every_row()
    with factory() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
        finish(uow, lease, signer, Evidence(outcome=Outcome.NOT_APPLICABLE))
    rows = every_row()
    assert PERSON not in rows
    assert ITEM not in rows
    assert "user 7" in rows
