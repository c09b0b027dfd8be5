"""A process that dies between the ledger entry and the commit leaves nothing half done."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import ConflictError, LedgerAheadError
from app.domain.ledger import LedgerEvent, LedgerHead
from app.domain.requests import RequestStatus
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.restore import reconciler
from app.services.suppression import record_consent
from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory
from tests.faults.conftest import PERSON, close, fill, make_installation
from tests.support.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.storage.engine import Database
    from app.storage.ledger import Ledger
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "support" / "killed_in_commit.py"


def ledger_of(installation: Installation) -> Ledger:
    ledger = installation.context.uow_factory.ledger
    assert ledger is not None
    return ledger


def survivor(installation: Installation) -> UnitOfWorkFactory:
    """Return units of work of a process that lives on, and catches up with the ledger."""
    context = installation.context
    catch_up = reconciler(context.pseudonyms, context.settings)
    return UnitOfWorkFactory(context.database, ledger_of(installation), catch_up)


def die(installation: Installation, event: LedgerEvent, argument: str = "") -> None:
    """Let a process write the event's entry and die before it commits."""
    process = subprocess.run(
        [sys.executable, str(SCRIPT), event.value, argument],
        env=installation.environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    with installation.context.uow_factory(write=False) as uow:
        head = uow.state.ledger_head() or LedgerHead()
    lost = ledger_of(installation).entry(head.number + 1)
    assert lost is not None
    assert lost.records[0].event is event


def repeat(installation: Installation, action: Callable[[UnitOfWork], object]) -> None:
    """Do what a client does: call again, and let the gateway retry once."""
    factory = survivor(installation)
    for _ in range(2):
        try:
            with factory() as uow:
                action(uow)
        except LedgerAheadError:
            continue
        except ConflictError:  # The first attempt has been carried out after all.
            return
        return
    pytest.fail("the ledger stopped the repeated call")


def is_suppressed(installation: Installation, user_id: str = PERSON) -> bool:
    hashes = installation.context.pseudonyms.user_hashes(user_id)
    with installation.context.uow_factory(write=False) as uow:
        return bool(uow.suppressions.matching(hashes))


@pytest.fixture
def patient_installation(database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation whose requests can be cancelled."""
    installation = make_installation(database, tmp_path / "home", LETHE_CANCEL_WINDOW="3600")
    fill(installation.context)
    yield installation
    close(installation)


def test_killed_forget_can_be_repeated(installation: Installation) -> None:
    die(installation, LedgerEvent.ACCEPTED, PERSON)

    def forget(uow: UnitOfWork) -> None:
        command = ForgetCommand.of(PERSON, (), None)
        request_forget(uow, installation.context.pseudonyms, installation.settings, command)

    repeat(installation, forget)
    assert is_suppressed(installation)
    with installation.context.uow_factory(write=False) as uow:
        (request,) = uow.requests.page(10, None)
    installation.finish_elsewhere()
    installation.check_forgotten(request.id)


def test_killed_cancellation_can_be_repeated(patient_installation: Installation) -> None:
    request_id = patient_installation.forget()
    die(patient_installation, LedgerEvent.CANCELLED, request_id)
    repeat(patient_installation, lambda uow: cancel_forget(uow, request_id))
    assert patient_installation.request(request_id).status is RequestStatus.CANCELLED
    assert not is_suppressed(patient_installation)


def test_killed_consent_can_be_repeated(installation: Installation) -> None:
    request_id = installation.forget()
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    die(installation, LedgerEvent.CONSENTED, PERSON)
    assert is_suppressed(installation)
    pseudonyms = installation.context.pseudonyms
    repeat(installation, lambda uow: record_consent(uow, pseudonyms, PERSON))
    assert not is_suppressed(installation)


def test_killed_completion_is_repeated_by_another_worker(installation: Installation) -> None:
    request_id = installation.forget()
    die(installation, LedgerEvent.COMPLETED)
    assert installation.request(request_id).status is not RequestStatus.COMPLETED
    assert is_suppressed(installation)
    survivor(installation).catch_up()
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)


def test_unwritten_entry_leaves_nothing(installation: Installation) -> None:
    """A process that dies while it writes the entry leaves a temporary file, which is no entry."""
    request_id = installation.forget()
    (directory,) = Path(installation.settings.ledger_root).glob("*/entries/000000000")
    (directory / ".000000000002.json.00").write_bytes(b'{"body":{"nu')
    assert ledger_of(installation).last_number() == 1
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
