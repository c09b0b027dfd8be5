"""After the flip a job is repeated until it succeeds, and keeps its evidence."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.jobs import JobStatus, Stage
from app.domain.requests import Outcome, RequestStatus
from app.services.jobs import sweep
from app.storage.artifacts import ArtifactStore
from tests.faults.conftest import PERSON, close, fill, make_installation
from tests.faults.test_pipeline import job_of, live_release
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.engine import Database
    from tests.faults.conftest import Installation


@pytest.fixture
def strict_empty(database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation that abandons a job after its first attempt."""
    installation = make_installation(
        database,
        tmp_path,
        LETHE_JOB_ATTEMPTS="1",
        LETHE_REQUEST_FAILURES="1",
    )
    fill(installation.context)
    yield installation
    close(installation)


@pytest.fixture
def strict(strict_empty: Installation) -> Installation:
    strict_empty.train()
    return strict_empty


class DownStore(ArtifactStore):
    """A store whose releases cannot be removed, as while a file server is away."""

    def remove(self, relative: str) -> dict[str, str]:
        path = str(self._local_of(relative) / "weights.json")
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Refuse to unlink files of the directory, as the kernel does after `chattr +i`."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.is_relative_to(directory):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok=missing_ok)

    unlink = Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        yield


def check_evidence(installation: Installation, request_id: str) -> None:
    """Assert that the certificate has the audit of the release that unlearned the person."""
    payload = installation.certificate(request_id)
    assert (payload["method"], payload["outcome"]) == ("e2urec", "passed")
    assert payload["batch"]["figures"]["audit"]["left"] == 0


def test_store_that_is_down_after_the_flip_delays_the_certificate(strict: Installation) -> None:
    request_id = strict.forget()
    old = live_release(strict)
    settings = strict.settings
    down = DownStore(settings.artifacts_root, settings.home / "cache")
    for tries in range(1, 5):
        assert run_once(replace(strict.context, artifacts=down))
        with strict.context.uow_factory() as uow:
            assert sweep(uow, settings).abandoned == ()
        job = job_of(strict, request_id)
        assert (job.status, job.stage, job.failed_tries) == (
            JobStatus.ROLLING_OUT,
            Stage.SHRED,
            tries,
        )
        assert job.error == f"shred: OSError: Input/output error: {old.path}/weights.json"
        assert strict.request(request_id).status is RequestStatus.ROLLING_OUT
    assert run_once(strict.context)
    strict.check_forgotten(request_id)
    check_evidence(strict, request_id)
    job = job_of(strict, request_id)
    assert (job.error, job.metrics["retries"]["shred"]["count"]) == (None, 4)


def test_error_names_the_directory_that_cannot_be_unlinked(strict: Installation) -> None:
    request_id = strict.forget()
    old = live_release(strict)
    with immutable(Path(strict.settings.artifacts_root) / old.path):
        for _ in range(3):
            assert run_once(strict.context)
        job = job_of(strict, request_id)
        assert job.error is not None
        assert job.error.startswith("shred: PermissionError: Operation not permitted: ")
        assert f"{old.path}/" in job.error
        assert strict.settings.artifacts_root not in job.error
        assert PERSON not in job.error
    assert run_once(strict.context)
    strict.check_forgotten(request_id)
    check_evidence(strict, request_id)


@pytest.mark.parametrize("stage", [Stage.ROLL_OUT, Stage.DELETE_ROWS, Stage.SHRED, Stage.CERTIFY])
def test_any_error_after_the_flip_is_retried(strict: Installation, stage: Stage) -> None:
    """At `roll_out` the error comes before the flip, so another job of the request finishes."""
    request_id = strict.forget()

    def fail(begun: Stage) -> None:
        if begun is stage:
            raise KeyError(PERSON)

    assert run_once(strict.context, on_stage=fail)
    assert strict.request(request_id).status is not RequestStatus.DEAD
    assert run_once(strict.context)
    strict.check_forgotten(request_id)
    check_evidence(strict, request_id)


@pytest.mark.parametrize("stage", [Stage.DELETE_ROWS, Stage.SHRED, Stage.CERTIFY])
def test_deletion_before_the_first_release_is_retried(
    strict_empty: Installation, stage: Stage
) -> None:
    request_id = strict_empty.forget()

    def fail(begun: Stage) -> None:
        if begun is stage:
            raise KeyError(PERSON)

    for _ in range(3):
        assert run_once(strict_empty.context, on_stage=fail)
        with strict_empty.context.uow_factory() as uow:
            assert sweep(uow, strict_empty.settings).abandoned == ()
    first = job_of(strict_empty, request_id)
    assert run_once(strict_empty.context)
    strict_empty.check_forgotten(request_id)
    assert job_of(strict_empty, request_id).id == first.id


@pytest.mark.slow
@pytest.mark.parametrize("point", ["delete_rows", "shred", "unlinked", "certify"])
def test_worker_killed_after_the_flip_is_no_reason_to_abandon(
    strict: Installation, point: str
) -> None:
    request_id = strict.forget()
    # The sweep of a second worker would carry out the erasure before `unlinked`.
    for _ in range(1 if point == "unlinked" else 2):
        strict.kill(strict.start_and_stop_at(point))
    strict.finish_elsewhere()
    strict.check_forgotten(request_id)
    check_evidence(strict, request_id)


def test_job_that_died_after_the_flip_under_an_earlier_version_is_followed_by_retraining(
    strict: Installation,
) -> None:
    """The rows are gone, so a successor would find nothing to unlearn."""
    request_id = strict.forget()

    def fail(begun: Stage) -> None:
        if begun is Stage.SHRED:
            raise OSError

    assert run_once(strict.context, on_stage=fail)
    with strict.context.database.write.begin() as connection:
        connection.execute(text("UPDATE jobs SET status = 'dead' WHERE kind = 'forget'"))
        connection.execute(
            text("UPDATE requests SET status = 'batched', job_id = NULL, failures = 1")
        )
    assert run_once(strict.context)
    strict.check_forgotten(request_id)
    payload = strict.certificate(request_id)
    assert (payload["method"], payload["outcome"]) == ("retrain", "exact")
    assert strict.request(request_id).outcome is Outcome.EXACT
    with strict.context.uow_factory(write=False) as uow:
        assert len(uow.request_jobs.of_request(request_id)) == 2


@pytest.mark.parametrize("stage", [Stage.ROLL_OUT, Stage.DELETE_ROWS, Stage.SHRED, Stage.CERTIFY])
def test_carry_over_that_an_earlier_version_inferred_is_repeated(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """The earlier version took a trained person for a holdout user, and was killed afterwards."""
    context = installation.context
    request_id = installation.forget()

    def kill(begun: Stage) -> None:
        if begun is stage:
            raise KeyboardInterrupt

    with monkeypatch.context() as earlier:
        earlier.setattr(context.learner, "has_training_rows", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            run_once(context, on_stage=kill)
    remove_record(installation)

    installation.finish_elsewhere()

    if stage is not Stage.CERTIFY:  # The first job has the digests of the files that it unlinked.
        installation.check_forgotten(request_id)
    assert installation.certificate(request_id)["outcome"] == Outcome.EXACT


def remove_record(installation: Installation) -> None:
    """Leave what a job of the version before the record of training leaves."""
    with installation.context.database.write.begin() as connection:
        connection.execute(text("UPDATE request_jobs SET outcome = NULL, figures = NULL"))
    installation.end_leases()
    root = Path(installation.settings.artifacts_root)
    for path in root.rglob("manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": {}}))
