"""Workers sign checkpoints when the ledger's head moved, and no certificate waits for one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.errors import LedgerUnavailableError
from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord
from app.services import signing_keys
from app.services.ledger_check import LedgerReport, check_ledger
from app.services.signatures import Signer
from app.services.signing_keys import rotate, trusted_key
from tests.faults.conftest import close, fill, make_installation
from worker import ledger_checkpoints
from worker.ledger_checkpoints import write_checkpoint
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.engine import Database
    from app.storage.ledger import Ledger
    from tests.faults.conftest import Installation


@pytest.fixture
def installation(database: Database, tmp_path: Path) -> Iterator[Installation]:
    installation = make_installation(database, tmp_path / "home")
    fill(installation.context)
    yield installation
    close(installation)


def record(installation: Installation) -> None:
    with installation.context.uow_factory() as uow:
        uow.record(LedgerRecord(event=LedgerEvent.CONSENTED, at=uow.state.now()))


def ledger_of(installation: Installation) -> Ledger:
    ledger = installation.context.uow_factory.ledger
    assert ledger is not None
    return ledger


def numbers(installation: Installation) -> list[int]:
    return ledger_of(installation).checkpoint_numbers()[0]


def covered(installation: Installation) -> int:
    with installation.context.uow_factory(write=False) as uow:
        return uow.state.ledger_checkpoint()


def report_of(installation: Installation) -> LedgerReport:
    with installation.context.uow_factory(write=False) as uow:
        keys = [trusted_key(key) for key in uow.signing_keys.all()]
    return check_ledger(ledger_of(installation), keys)


def test_certificate_is_followed_by_a_checkpoint(installation: Installation) -> None:
    request_id = installation.forget("u1")
    assert run_once(installation.context)
    assert installation.request(request_id).completed_at is not None
    report = report_of(installation)
    assert report.problems == ()
    assert report.covered == report.last_number == covered(installation)


def test_checkpoint_is_written_when_the_head_moved(installation: Installation) -> None:
    write_checkpoint(installation.context, at_once=True)
    assert numbers(installation) == []
    record(installation)
    for _ in range(2):
        write_checkpoint(installation.context, at_once=True)
    record(installation)
    write_checkpoint(installation.context, at_once=True)
    assert numbers(installation) == [1, 2]
    assert covered(installation) == 2
    assert report_of(installation).problems == ()


def test_sweep_waits_between_checkpoints(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        record(installation)
        write_checkpoint(installation.context)
    assert numbers(installation) == [1]
    monkeypatch.setattr(ledger_checkpoints, "_INTERVAL", timedelta(0))
    write_checkpoint(installation.context)
    assert numbers(installation) == [1, 3]


def test_key_rotation_between_checkpoints(installation: Installation) -> None:
    record(installation)
    write_checkpoint(installation.context, at_once=True)
    with installation.context.uow_factory() as uow:
        rotate(uow, installation.settings)
    record(installation)
    write_checkpoint(installation.context, at_once=True)
    report = report_of(installation)
    assert report.problems == ()
    assert report.checkpoints == 2


def test_retired_key_signs_no_checkpoint(installation: Installation) -> None:
    record(installation)
    with installation.context.uow_factory() as uow:
        signing_keys.register(uow, Signer(Ed25519PrivateKey.generate()))
    write_checkpoint(installation.context, at_once=True)
    assert numbers(installation) == []
    assert covered(installation) == 0


def test_checkpoint_that_cannot_be_written_delays_no_certificate(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise LedgerUnavailableError

    request_id = installation.forget("u1")
    with monkeypatch.context() as patch:
        patch.setattr("app.storage.ledger.Ledger.create_checkpoint", refuse)
        assert run_once(installation.context)
    assert installation.certificate(request_id)["kind"] == "deletion"
    assert numbers(installation) == []
    assert not run_once(installation.context)
    assert report_of(installation).covered == report_of(installation).last_number


def test_existing_checkpoint_is_adopted(installation: Installation) -> None:
    """A worker died between the checkpoint and its number in the database."""
    record(installation)
    write_checkpoint(installation.context, at_once=True)
    with installation.context.uow_factory() as uow:
        uow.state.write_ledger_checkpoint(0)
    write_checkpoint(installation.context, at_once=True)
    assert covered(installation) == 1
    record(installation)
    write_checkpoint(installation.context, at_once=True)
    assert report_of(installation).problems == ()


def test_damaged_chain_is_not_signed(installation: Installation) -> None:
    record(installation)
    record(installation)
    (entry,) = Path(installation.settings.ledger_root).glob("*/entries/*/000000000001.json")
    document = json.loads(entry.read_bytes())
    document["body"]["data_version"] += 1
    entry.write_bytes(json.dumps(document).encode())
    write_checkpoint(installation.context, at_once=True)
    assert numbers(installation) == []


def test_head_that_the_ledger_does_not_reach_is_not_signed(installation: Installation) -> None:
    record(installation)
    with installation.context.uow_factory() as uow:
        uow.state.write_ledger_head(LedgerHead(number=1, digest="0" * 64))
    write_checkpoint(installation.context, at_once=True)
    assert numbers(installation) == []
