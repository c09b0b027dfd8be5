"""Suspend and kill workers that hold files, on one machine and on two: nothing is left unnamed.

Two `LETHE_HOME` directories stand for two machines, which share a database and a remote store.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text

from app.domain.jobs import JobKind
from app.services.jobs import start_training
from tests.faults.conftest import PERSON, close, fill, make_installation
from tests.support.processes import PATIENCE_SECONDS
from worker.claim_files import sweep_files
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.storage.engine import Database
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow

FILE_KINDS = {"staging", "upload", "copy"}


@pytest.fixture
def machines(database: Database, tmp_path: Path) -> Iterator[tuple[Installation, Installation]]:
    """Provide two machines with one database, one remote store and a live release."""
    (tmp_path / "remote").mkdir()
    url = f"dir::file://{tmp_path / 'remote'}"
    signing_key = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    first, second = (
        make_installation(
            database,
            tmp_path / name,
            LETHE_ARTIFACTS_URL=url,
            LETHE_LEDGER_URL=str(tmp_path / "ledger"),
            LETHE_SIGNING_KEY=signing_key.decode(),
        )
        for name in ("first", "second")
    )
    fill(first.context)
    first.train()
    yield first, second
    close(first)
    close(second)


def sweep(installation: Installation) -> None:
    sweep_files(installation.context.uow_factory, installation.context.artifacts)


def owed(installation: Installation) -> list[tuple[str, str | None]]:
    """Return the kinds and machines of the open erasures of files."""
    with installation.context.uow_factory(write=False) as uow:
        scrubs = uow.scrubs.open_ones()
    return [(scrub.kind, scrub.host) for scrub in scrubs if scrub.kind in FILE_KINDS]


def open_in_certificate(installation: Installation, request_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = installation.certificate(request_id)["open"]
    return rows


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size]


def live_path(installation: Installation) -> str:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release.path


def check_completed_with_open_claim(installation: Installation, request_id: str) -> None:
    """Assert that the certificate names the files that the suspended claim may still have."""
    machine = installation.context.artifacts.machine
    open_rows = open_in_certificate(installation, request_id)
    assert {("staging", machine), ("upload", machine)} <= {
        (row["kind"], row["host"]) for row in open_rows
    }
    sweep(installation)
    assert {("staging", machine), ("upload", machine)} <= set(owed(installation))


def test_local_publication_suspended_past_completion_leaves_nothing(
    installation: Installation,
) -> None:
    request_id = installation.forget()
    suspended = installation.start_and_stop_at("publishing")
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    check_completed_with_open_claim(installation, request_id)
    suspended.send_signal(signal.SIGCONT)
    suspended.communicate(timeout=PATIENCE_SECONDS)
    sweep(installation)
    assert owed(installation) == []
    installation.check_forgotten(request_id)


def test_upload_suspended_past_completion_leaves_nothing(
    machines: tuple[Installation, Installation], tmp_path: Path
) -> None:
    first, _ = machines
    request_id = first.forget()
    suspended = first.start_and_stop_at("publishing")
    first.finish_elsewhere()
    first.check_forgotten(request_id)
    check_completed_with_open_claim(first, request_id)
    suspended.send_signal(signal.SIGCONT)
    suspended.communicate(timeout=PATIENCE_SECONDS)
    sweep(first)
    assert owed(first) == []
    first.check_forgotten(request_id)
    remaining = files_below(tmp_path / "remote") + files_below(tmp_path / "first" / "cache")
    assert {path.parent.name for path in remaining if path.name != "machine-id"} == {
        live_path(first).rsplit("/", 1)[1]
    }


@pytest.mark.parametrize("point", ["snapshot", "unlearn", "audit", "publishing", "roll_out"])
def test_staging_of_worker_that_died_on_another_machine_is_owed_until_its_sweep(
    machines: tuple[Installation, Installation], tmp_path: Path, point: str
) -> None:
    first, second = machines
    request_id = first.forget()
    first.kill(first.start_and_stop_at(point))
    machine = first.context.artifacts.machine
    assert machine != second.context.artifacts.machine
    second.finish_elsewhere()
    open_rows = open_in_certificate(second, request_id)
    assert {(row["kind"], row["host"]) for row in open_rows} == {
        ("staging", machine),
        ("upload", machine),
    }
    sweep(second)
    assert len(owed(second)) == 2
    sweep(first)
    assert owed(second) == []
    left = files_below(tmp_path / "first" / "cache")
    assert [path.name for path in left] == ["machine-id"]
    second.check_forgotten(request_id)


def test_eviction_by_gateway_leaves_parent_to_worker(
    machines: tuple[Installation, Installation],
) -> None:
    first, _ = machines
    request_id = first.forget()
    working = first.start_and_stop_at("audit")
    first.context.artifacts.evict(live_path(first))  # As a gateway does after loading.
    working.send_signal(signal.SIGCONT)
    _, errors = working.communicate(timeout=PATIENCE_SECONDS)
    assert b"job_error" not in errors
    first.check_forgotten(request_id)
    assert owed(first) == []


def test_copy_that_suspended_worker_reads_is_open_until_worker_ends(
    machines: tuple[Installation, Installation], tmp_path: Path
) -> None:
    first, _ = machines
    request_id = first.forget()
    suspended = first.start_and_stop_at("audit")
    first.finish_elsewhere()
    machine = first.context.artifacts.machine
    open_rows = open_in_certificate(first, request_id)
    assert ("copy", machine) in {(row["kind"], row["host"]) for row in open_rows}
    first.kill(suspended)
    sweep(first)
    assert owed(first) == []
    for path in files_below(tmp_path / "first" / "cache"):
        assert PERSON.encode() not in path.read_bytes()


def test_shredding_names_claims_of_earlier_jobs_on_other_machines(
    machines: tuple[Installation, Installation],
) -> None:
    """The job of a dead worker has ended before the deletion: its files know the person too."""
    first, second = machines
    with first.context.uow_factory() as uow:
        start_training(uow, JobKind.RENEW)
    first.kill(first.start_and_stop_at("audit"))
    assert files_below(first.settings.home / "cache" / "staging")
    second.finish_elsewhere()
    request_id = second.forget()
    second.finish_elsewhere()
    machine = first.context.artifacts.machine
    assert machine in {row["host"] for row in open_in_certificate(second, request_id)}
    sweep(first)
    assert not files_below(first.settings.home / "cache" / "staging")
    assert owed(first) == []


def test_certificate_says_later_that_files_of_dead_worker_are_gone(
    machines: tuple[Installation, Installation],
) -> None:
    first, second = machines
    request_id = first.forget()
    first.kill(first.start_and_stop_at("audit"))
    second.finish_elsewhere()
    sweep(first)
    run_once(second.context)
    certificate = second.certificate(request_id)
    assert certificate["kind"] == "scrub-closed"
    assert certificate["open"] == []


def forget_record_of_claims(installation: Installation) -> None:
    """Delete the rows of claims, which earlier versions did not write."""
    with installation.context.database.write.begin() as connection:
        connection.execute(text("DELETE FROM job_claims"))


def test_claims_before_the_upgrade_are_owed_until_their_machine_is_known(
    machines: tuple[Installation, Installation],
) -> None:
    first, second = machines
    request_id = first.forget()
    first.kill(first.start_and_stop_at("audit"))
    forget_record_of_claims(first)
    second.finish_elsewhere()
    expected = [] if second.context.database.is_sqlite else ["staging", "upload"]
    open_rows = open_in_certificate(second, request_id)
    assert [(row["kind"], row["host"]) for row in open_rows] == [(kind, None) for kind in expected]
    sweep(second)
    assert len(owed(second)) == len(expected)
    sweep(first)
    assert not files_below(first.settings.home / "cache" / "staging")
    assert owed(first) == []


def test_claims_before_the_upgrade_on_this_machine_are_not_owed(installation: Installation) -> None:
    request_id = installation.forget()
    installation.kill(installation.start_and_stop_at("audit"))
    forget_record_of_claims(installation)
    installation.finish_elsewhere()
    assert open_in_certificate(installation, request_id) == []
    installation.check_forgotten(request_id)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("store", ["machines", "installation"])
def test_publication_suspended_past_the_next_deletion_restores_no_old_release(
    request: pytest.FixtureRequest, store: str
) -> None:
    """The suspended claim publishes weights that know the person of the next deletion."""
    provided = request.getfixturevalue(store)
    used: Installation = provided[0] if isinstance(provided, tuple) else provided
    used.forget()
    suspended = used.start_and_stop_at("publishing")
    used.finish_elsewhere()
    second_id = used.forget("u1")
    used.finish_elsewhere()
    check_completed_with_open_claim(used, second_id)
    suspended.send_signal(signal.SIGCONT)
    suspended.communicate(timeout=PATIENCE_SECONDS)
    sweep(used)
    assert owed(used) == []
    assert used.context.artifacts.published() == [live_path(used)]
