"""Try to break the promises of `completed`: files of other jobs, and replicas that return."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from app.domain.catalog import NO_USER
from app.domain.identifiers import new_id
from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome, RequestStatus
from app.services.jobs import start_training
from app.services.replicas import ReplicaState, register_replica, renew_replica
from tests.faults.test_roll_out import SHORT_TTL, FakeReplica, impatient
from tests.support.file_learner import FileLearner
from tests.support.processes import PATIENCE_SECONDS
from worker.errors import UnlearningFailedError
from worker.loop import run_forever, run_once

if TYPE_CHECKING:
    from tests.faults.conftest import Installation
    from worker.learner import Artifact


def test_staging_files_of_failed_job_are_shredded(installation: Installation) -> None:
    """A worker that dies right after a failed job leaves weights that were trained on all users."""
    context = installation.context
    with context.uow_factory() as uow:
        earlier = start_training(uow, JobKind.RENEW)

    def fail(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            raise OSError

    assert run_once(context, on_stage=fail)
    leftover = context.artifacts.staging(earlier.id, 1) / "weights.json"
    leftover.write_text('[["person-8c1f0b7e", "i1"]]')
    request_id = installation.forget()
    assert run_once(context)
    installation.check_forgotten(request_id)
    certificate = installation.certificate(request_id)
    assert f"staging/{earlier.id}/1/weights.json" in certificate["shredded"]


class DivergingLearner(FileLearner):
    """Diverges at every attempt, as seeded training would."""

    def unlearn(self, *_inputs: object, **_options: object) -> Artifact:
        raise UnlearningFailedError


def test_diverging_unlearning_ends_in_retraining(installation: Installation) -> None:
    request_id = installation.forget()
    learner = DivergingLearner(installation.settings)
    assert run_once(replace(installation.context, learner=learner))
    installation.check_forgotten(request_id)
    request = installation.request(request_id)
    assert request.outcome is Outcome.EXACT
    with installation.context.uow_factory(write=False) as uow:
        tries = uow.jobs.get(request.job_id or "").metrics["tries"]
    assert [tried["attempt"] for tried in tries] == ["try-0", "try-1", "exact"]


class ReturningReplica:
    """Cannot load any release, and registers under a new id whenever it is fenced."""

    def __init__(self, installation: Installation) -> None:
        self._factory = installation.context.uow_factory
        self._ttl = SHORT_TTL
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._id = self._register()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _register(self) -> str:
        name = new_id("rep")
        with self._factory() as uow:
            register_replica(uow, self._ttl, replica_id=name, host="h", pid=1)
        return name

    def _follow(self) -> None:
        while not self._stop.wait(0.02):
            with self._factory() as uow:
                state = ReplicaState(problem="no such disk")
                alias = renew_replica(uow, self._ttl, self._id, state)
            if alias is None:
                self._id = self._register()


def test_replica_without_release_does_not_block_deletion(installation: Installation) -> None:
    """A replica that registers after the flip has no old release to answer from."""
    request_id = installation.forget()
    stop = threading.Event()
    # The pipeline refuses a rollout that no replica can serve, so one replica is good.
    with FakeReplica(installation, "good"), ReturningReplica(installation):
        context = impatient(installation)
        work = threading.Thread(target=run_once, args=(context,), kwargs={"stop": stop})
        work.start()
        work.join(timeout=PATIENCE_SECONDS)
        is_stuck = work.is_alive()
        stop.set()
        work.join()
    assert not is_stuck
    installation.check_forgotten(request_id)


def test_forgotten_item_leaves_no_raters_in_change_log(installation: Installation) -> None:
    """Entries of the change log would reveal which users rated the item."""
    request_id = installation.forget_item("i1")
    run_forever(installation.context, threading.Event(), until_idle=True)
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    with installation.context.uow_factory(write=False) as uow:
        assert {
            change.user_id for change in uow.state.changes_since(0) if change.kind == "forget"
        } == {NO_USER}
