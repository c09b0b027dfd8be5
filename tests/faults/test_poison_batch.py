"""Run batches with a request that makes its job fail, and failures of the environment."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import DatabaseUnavailableError
from app.domain.jobs import JobKind, JobStatus, Stage
from app.domain.requests import RequestStatus
from app.services.jobs import start_training
from tests.faults.conftest import PERSON
from tests.faults.test_pipeline import job_of
from tests.support.file_learner import FileLearner
from worker.failures import describe_failure
from worker.loop import run_once

if TYPE_CHECKING:
    from pathlib import Path

    from models.runtime.progress import Progress
    from tests.faults.conftest import Installation
    from worker.context import WorkerContext
    from worker.learner import Artifact, DataSnapshot

BATCH = 32


class PoisonedLearner(FileLearner):
    """Fails for batches that contain certain users."""

    poisons: frozenset[str] = frozenset()
    error: Exception = KeyError("a poison")

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        if self.poisons & snapshot.forget.users:
            raise self.error
        return super().unlearn(snapshot, parent, into, strength=strength, report=report)


def poisoned(
    installation: Installation, *users: str, error: Exception | None = None
) -> WorkerContext:
    learner = PoisonedLearner(installation.settings)
    learner.poisons = frozenset(users)
    learner.error = error or learner.error
    return replace(installation.context, learner=learner)


@pytest.fixture
def crowd(empty_installation: Installation) -> Installation:
    users = [f"member {n}" for n in range(BATCH)]
    with empty_installation.context.uow_factory() as uow:
        uow.people.ensure_users(users)
        uow.people.upsert_interactions(
            [
                Interaction(user_id=user, item_id=f"i{n % 6}", rating=4.0, timestamp=n)
                for n, user in enumerate(users)
            ],
            uow.state.bump("interactions"),
        )
    empty_installation.train()
    return empty_installation


@pytest.mark.slow
@pytest.mark.parametrize("poisons", [{"member 13"}, {"member 2", "member 30"}])
def test_poison_is_dead_alone_and_the_rest_of_its_batch_completes(
    crowd: Installation, poisons: set[str]
) -> None:
    requests = {f"member {n}": crowd.forget(f"member {n}") for n in range(BATCH)}
    context = poisoned(crowd, *poisons)
    while run_once(context):
        pass
    statuses = {user: crowd.request(request_id).status for user, request_id in requests.items()}
    assert {user for user, status in statuses.items() if status is RequestStatus.DEAD} == poisons
    rest = {status for user, status in statuses.items() if user not in poisons}
    assert rest == {RequestStatus.COMPLETED}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/member 1"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        MemoryError(),
        ConnectionResetError("by peer"),
        DatabaseUnavailableError(),
    ],
    ids=lambda error: type(error).__name__ + str(getattr(error, "errno", "")),
)
def test_failure_of_the_environment_leaves_the_batch_as_it_is(
    installation: Installation, error: Exception
) -> None:
    request_id = installation.forget()
    context = poisoned(installation, PERSON, error=error)
    for tries in range(1, 5):
        assert run_once(context)
        job = job_of(installation, request_id)
        assert (job.status, job.attempts, job.failed_tries) == (JobStatus.RUNNING, 0, tries)
        assert job.error is not None
        assert job.error.startswith("unlearn: ")
        assert PERSON not in job.error
        assert "member" not in job.error
    request = installation.request(request_id)
    assert (request.failures, request.last_failure) == (0, None)
    assert run_once(installation.context)
    installation.check_forgotten(request_id)
    with installation.context.uow_factory(write=False) as uow:
        assert len([job for job in uow.jobs.page(9, None) if job.kind is JobKind.FORGET]) == 1


def test_disk_full_ends_a_training(installation: Installation) -> None:
    """The person who waits for `lethe train` sees the reason."""

    def fail(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with installation.context.uow_factory() as uow:
        job = start_training(uow, JobKind.RENEW)
    assert run_once(installation.context, on_stage=fail)
    with installation.context.uow_factory(write=False) as uow:
        job = uow.jobs.get(job.id)
    assert job.status is JobStatus.FAILED
    assert job.error == "train: OSError: No space left on device"


def test_device_out_of_memory_counts_so_that_the_batch_is_halved() -> None:
    """A smaller batch may fit."""

    class OutOfMemoryError(RuntimeError):
        pass

    failure = describe_failure(OutOfMemoryError("CUDA"), Stage.UNLEARN, [])
    assert not failure.is_environmental
    assert failure.signature == "unlearn: OutOfMemoryError"
