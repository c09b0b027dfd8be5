"""Attempts to break what `completed` promises: what other jobs left, replicas that come back."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from app.domain.identifiers import new_id
from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome, RequestStatus
from app.services.jobs import start_training
from app.services.replicas import ReplicaState, register_replica, renew_replica
from tests.faults.test_roll_out import FakeReplica
from tests.support.file_learner import FileLearner
from worker.errors import UnlearningFailedError
from worker.loop import run_forever, run_once

if TYPE_CHECKING:
    from tests.faults.conftest import Installation
    from worker.learner import Artifact


def test_staging_of_an_earlier_job_is_gone_by_completion(installation: Installation) -> None:
    """A worker that is killed right after giving up a job leaves weights that know everybody."""
    context = installation.context
    with context.uow_factory() as uow:
        earlier = start_training(uow, JobKind.RENEW)

    def fail(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            raise OSError

    assert run_once(context, on_stage=fail)
    left = context.artifacts.staging(earlier.id, 1) / "weights.json"
    left.write_text('[["person-8c1f0b7e", "i1"]]')
    request_id = installation.forget()
    assert run_once(context)
    installation.check_forgotten(request_id)
    certificate = installation.request(request_id).certificate
    assert certificate is not None
    assert f"staging/{earlier.id}/1/weights.json" in certificate["payload"]["shredded"]


class DivergingLearner(FileLearner):
    """Fails in the same way at every try, as seeded training does."""

    def unlearn(self, *_inputs: object, **_options: object) -> Artifact:
        raise UnlearningFailedError


def test_unlearning_that_diverges_ends_in_exact_retraining(installation: Installation) -> None:
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
    """Cannot load anything, and registers under a new name whenever it is counted out."""

    def __init__(self, installation: Installation) -> None:
        self._factory = installation.context.uow_factory
        self._ttl = installation.settings.replica_ttl
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


def test_a_replica_that_can_serve_nothing_holds_up_no_deletion(installation: Installation) -> None:
    """Registered after the flip and without a release, it cannot answer from an old one."""
    request_id = installation.forget()
    stop = threading.Event()
    # Another one serves, so that the roll-out is not refused for want of replicas.
    with FakeReplica(installation, "good"), ReturningReplica(installation):
        work = threading.Thread(
            target=run_once, args=(installation.context,), kwargs={"stop": stop}
        )
        work.start()
        work.join(timeout=20)
        stuck = work.is_alive()
        stop.set()
        work.join()
    assert not stuck
    installation.check_forgotten(request_id)


def test_who_rated_a_forgotten_item_is_told_by_nothing(installation: Installation) -> None:
    """The change log named the item's raters one after the other; none of that stays."""
    request_id = installation.forget_item("i1")
    run_forever(installation.context, threading.Event(), until_idle=True)
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    with installation.context.uow_factory(write=False) as uow:
        assert {one.user_id for one in uow.state.changes_since(0) if one.kind == "forget"} == {None}
