"""Count along a lineage: training rows and seconds, forgotten rows, drift, and what they decide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.domain.jobs import JobKind, Stage
from app.domain.renewal import ExactMode
from app.domain.requests import Outcome, RequestStatus
from app.services.jobs import start_training
from tests.faults.conftest import PERSON
from tests.support.file_learner import FileLearner, read_weights
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.releases import Release
    from models.runtime.progress import Progress
    from tests.faults.conftest import Installation
    from worker.context import WorkerContext
    from worker.learner import Artifact, DataSnapshot, Verdict

FAILED = Outcome.FAILED
TRAIN, UNLEARN, AUDIT, ROLL_OUT = 100.0, 10.0, 1.0, 1000.0


def live_release(installation: Installation) -> Release:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release


def rows_in_weights(installation: Installation) -> list[list[str]]:
    path = live_release(installation).path
    return read_weights(installation.context.artifacts.local_path(path))


def recent_trainings(installation: Installation) -> list[float]:
    with installation.context.uow_factory(write=False) as uow:
        return uow.releases.recent_trainings()


def test_exact_training_starts_a_lineage(installation: Installation) -> None:
    root = live_release(installation)
    assert root.training_rows == len(rows_in_weights(installation)) > 0
    assert (root.forgotten_rows, root.forgotten_share, root.drift) == (0, 0.0, None)
    assert root.training_seconds is not None
    assert recent_trainings(installation) == [root.training_seconds]


def test_forgotten_rows_add_up_and_carry_overs_inherit(installation: Installation) -> None:
    root, before = live_release(installation), rows_in_weights(installation)
    with installation.context.uow_factory() as uow:
        uow.people.ensure_users(["idle"])
    for user in ("u0", "idle", "u1"):
        installation.forget(user)
        assert run_once(installation.context)
        release = live_release(installation)
        assert (release.training_rows, release.training_seconds) == (
            root.training_rows,
            root.training_seconds,
        )
        removed = [row for row in before if row not in rows_in_weights(installation)]
        assert release.forgotten_rows == len(removed)
    assert {user for user, _ in removed} == {"u0", "u1"}
    assert release.forgotten_share == len(removed) / len(before)
    assert recent_trainings(installation) == [root.training_seconds]


@dataclass
class Clock:
    """Stands for the module `time` in stages and learners that take a given time."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


class SlowLearner(FileLearner):
    """Moves the clock; `drift` is what the audits of fast successors measure."""

    clock: Clock
    drift: dict[str, Any] | None = None

    def train(
        self,
        snapshot: DataSnapshot,
        into: Path,
        _backbone: str | Path,
        report: Progress,
        **options: Any,
    ) -> Artifact:
        self.clock.now += TRAIN
        return super().train(snapshot, into, _backbone, report, **options)

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        self.clock.now += UNLEARN
        return super().unlearn(snapshot, parent, into, strength=strength, report=report)

    def audit(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        self.clock.now += AUDIT
        verdict = super().audit(snapshot, parent, candidate, exact=exact, report=report)
        return verdict if exact else replace(verdict, drift=self.drift)


@dataclass
class SlowWorker:
    """Runs jobs with a clock that only the learner and the rollout move."""

    installation: Installation
    clock: Clock = field(default_factory=Clock)

    def run(
        self,
        verdicts: tuple[Outcome, ...] = (),
        *,
        drift: dict[str, Any] | None = None,
        on_stage: Callable[[Stage], None] = lambda _stage: None,
        **settings: Any,
    ) -> bool:
        learner = SlowLearner(self.installation.settings, verdicts)
        learner.clock, learner.drift = self.clock, drift
        context: WorkerContext = replace(
            self.installation.context,
            learner=learner,
            settings=self.installation.settings.model_copy(update=settings),
        )

        def moving(stage: Stage) -> None:
            on_stage(stage)
            if stage is Stage.ROLL_OUT:
                self.clock.now += ROLL_OUT

        return run_once(context, on_stage=moving)


@pytest.fixture
def worker(empty_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> SlowWorker:
    """Provide a worker on an installation with a release, trained and rolled out by that worker."""
    worker = SlowWorker(empty_installation)
    monkeypatch.setattr("worker.job_run.time", worker.clock)
    monkeypatch.setattr("worker.stages.build.time", worker.clock)
    start(empty_installation, JobKind.TRAIN)
    assert worker.run()
    return worker


def start(installation: Installation, kind: JobKind) -> None:
    with installation.context.uow_factory() as uow:
        start_training(uow, kind)


def test_first_training_is_measured_without_a_rollout(worker: SlowWorker) -> None:
    assert live_release(worker.installation).training_seconds == TRAIN


def test_failed_attempts_to_unlearn_are_no_part_of_the_training_time(worker: SlowWorker) -> None:
    worker.installation.forget()
    assert worker.run((FAILED, FAILED))
    release = live_release(worker.installation)
    assert release.outcome is Outcome.EXACT
    assert release.training_seconds == TRAIN + AUDIT + ROLL_OUT
    assert recent_trainings(worker.installation) == [TRAIN + AUDIT + ROLL_OUT, TRAIN]


class KilledError(BaseException):
    """Ends a claim as `kill -9` does: nothing more is written."""


@pytest.mark.parametrize(
    "stage", [Stage.SNAPSHOT, Stage.TRAIN, Stage.AUDIT, Stage.PUBLISH, Stage.ROLL_OUT, Stage.SHRED]
)
def test_killed_claims_change_no_training_time(worker: SlowWorker, stage: Stage) -> None:
    def kill(begun: Stage) -> None:
        if begun is stage:
            worker.clock.now += 5 * TRAIN  # The dead claim has worked on the stage.
            raise KilledError

    start(worker.installation, JobKind.RENEW)
    with pytest.raises(KilledError):
        worker.run(on_stage=kill)
    worker.installation.end_leases()
    assert worker.run()
    release = live_release(worker.installation)
    assert release.outcome is Outcome.EXACT
    assert release.training_seconds == TRAIN + AUDIT + ROLL_OUT


def test_training_times_of_three_trainings_are_kept(worker: SlowWorker) -> None:
    for _ in range(3):
        start(worker.installation, JobKind.RENEW)
        assert worker.run()
    assert recent_trainings(worker.installation) == [TRAIN + AUDIT + ROLL_OUT] * 3


DRIFTED = {"audit": {"rows": 90, "increase": 0.2}, "holdout": {"rows": 9}, "increase": 0.2}
NOT_MEASURED = {"audit": {"rows": 9, "reason": "few"}, "increase": None}


def test_drift_is_stored_and_ends_with_an_exact_training(worker: SlowWorker) -> None:
    worker.installation.forget("u0")
    assert worker.run(drift=DRIFTED)
    release = live_release(worker.installation)
    assert (release.drift, release.loss_increase) == (DRIFTED, 0.2)
    start(worker.installation, JobKind.RENEW)
    assert worker.run()
    release = live_release(worker.installation)
    assert (release.drift, release.loss_increase, release.forgotten_rows) == (None, 0.0, 0)


def test_drift_that_cannot_be_measured_is_null_with_a_reason(worker: SlowWorker) -> None:
    worker.installation.forget("u0")
    assert worker.run(drift=NOT_MEASURED)
    release = live_release(worker.installation)
    assert (release.drift, release.loss_increase) == (None, 0.0)
    assert release.metrics["audit"]["drift"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("settings", "drift", "is_exact"),
    [
        ({"exact": ExactMode.OFF, "drift_rows": 0.01}, None, True),
        ({"exact": ExactMode.OFF, "drift_rows": 0.9}, DRIFTED, True),
        ({"exact": ExactMode.OFF, "drift_rows": 0.9}, NOT_MEASURED, False),
        ({"exact": ExactMode.OFF, "drift_rows": 0.9, "drift_loss": 0.3}, DRIFTED, False),
        # A renewal follows in the other modes, so that deletions do not wait for a training.
        ({"exact": ExactMode.DEADLINE, "drift_rows": 0.01}, DRIFTED, False),
        ({"exact": None, "drift_rows": 0.01}, DRIFTED, False),
    ],
)
def test_deletion_retrains_if_the_budget_is_spent_and_no_renewal_follows(
    worker: SlowWorker, settings: dict[str, Any], drift: dict[str, Any] | None, is_exact: bool
) -> None:
    worker.installation.forget("u0")
    assert worker.run(drift=drift, **settings)
    assert live_release(worker.installation).outcome is Outcome.PASSED
    request_id = worker.installation.forget(PERSON)
    while worker.installation.request(request_id).status is not RequestStatus.COMPLETED:
        assert worker.run(drift=drift, **settings)  # A renewal that is due comes first.
    release = live_release(worker.installation)
    assert release.id == worker.installation.request(request_id).release
    assert (release.outcome is Outcome.EXACT) is is_exact
    if is_exact:
        assert release.forgotten_rows == 0


def test_deletion_retrains_a_release_of_an_earlier_version_if_no_renewal_follows(
    worker: SlowWorker,
) -> None:
    with worker.installation.context.database.write.begin() as connection:
        connection.execute(text("UPDATE releases SET training_rows = NULL"))
    assert live_release(worker.installation).forgotten_share is None
    worker.installation.forget("u0")
    assert worker.run(exact=ExactMode.OFF)
    assert live_release(worker.installation).outcome is Outcome.EXACT
