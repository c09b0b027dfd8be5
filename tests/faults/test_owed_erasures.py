"""A reader delays the erasure of the database, and processes are killed around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.requests import RequestStatus
from app.services.certificates import certificates_of, content_of
from tests.faults.conftest import PERSON
from worker.loop import run_once
from worker.relay import Relay
from worker.stages import shred

if TYPE_CHECKING:
    from tests.faults.conftest import Installation

pytestmark = pytest.mark.slow


def owed_kinds(installation: Installation) -> list[str]:
    with installation.context.uow_factory(write=False) as uow:
        return [scrub.kind for scrub in uow.scrubs.open_ones()]


def certificates(installation: Installation, request_id: str) -> list[tuple[str, list[str]]]:
    """Return (kind, kinds of the open erasures) of each certificate."""
    with installation.context.uow_factory(write=False) as uow:
        return [
            (certificate.kind, [o["kind"] for o in content_of(certificate.envelope)["open"]])
            for certificate in certificates_of(uow, request_id)
        ]


def relay(installation: Installation) -> Relay:
    context = installation.context
    return Relay(context.settings, context.uow_factory, context.artifacts, lambda _id: None)


def complete_under_a_reader(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> str:
    """Complete a deletion while a transaction can still read the person's rows."""
    monkeypatch.setattr(shred, "_READER_SECONDS", 0.0)
    request_id = installation.forget()
    with installation.context.uow_factory(write=False) as reader:
        assert reader.people.user(PERSON) is not None
        assert run_once(installation.context)
        assert reader.people.user(PERSON) is not None
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    assert owed_kinds(installation) == ["database", "certificate"]
    return request_id


def test_relay_erases_and_a_worker_certifies(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = complete_under_a_reader(installation, monkeypatch)
    assert certificates(installation, request_id) == [("deletion", ["database"])]

    relay(installation).sweep()

    assert owed_kinds(installation) == ["certificate"]
    assert not run_once(installation.context)  # The turn of a Celery worker: no job is left.
    assert owed_kinds(installation) == []
    expected = [("deletion", ["database"]), ("scrub-closed", [])]
    assert certificates(installation, request_id) == expected


@pytest.mark.parametrize("point", ["unlinked", "scrubbed"])
def test_worker_killed_during_a_later_erasure_loses_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    request_id = complete_under_a_reader(installation, monkeypatch)
    later_id = installation.forget("u1")
    installation.kill(installation.start_and_stop_at(point))
    installation.finish_elsewhere()
    relay(installation).sweep()
    run_once(installation.context)
    assert owed_kinds(installation) == []
    assert [kind for kind, _ in certificates(installation, request_id)] == [
        "deletion",
        "scrub-closed",
    ]
    assert certificates(installation, later_id) == [("deletion", [])]


def test_killed_between_deletion_and_erasure_leaves_the_erasure_owed(
    installation: Installation,
) -> None:
    request_id = installation.forget()
    installation.kill(installation.start_and_stop_at("unlinked"))
    request = installation.request(request_id)
    assert (request.status, request.subject) == (RequestStatus.ROLLING_OUT, None)
    assert owed_kinds(installation) == ["database"]
    installation.finish_elsewhere()
    installation.check_forgotten(request_id)
    assert owed_kinds(installation) == []


@pytest.mark.parametrize("error", [PermissionError(1, "not permitted"), RuntimeError("store away")])
def test_files_that_cannot_be_swept_delay_no_erasure_of_the_database(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Packages of remote stores raise errors that are neither OSError nor LetheError."""
    request_id = complete_under_a_reader(installation, monkeypatch)
    store = installation.context.artifacts
    store.staging("job_old", 1)
    with installation.context.uow_factory() as uow:
        # A claim of a job that has ended, with files that cannot be unlinked.
        uow.job_claims.add(installation.request(request_id).job_id or "", 99, store.machine)

    def fail(*_arguments: object, **_options: object) -> bool:
        raise error

    monkeypatch.setattr(store, "end_claim", fail)
    monkeypatch.setattr(store, "published", fail)
    relay(installation).turn()
    assert owed_kinds(installation) == ["certificate"]
