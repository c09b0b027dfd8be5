"""Count what happens along a lineage: the exact training at its root, and its fast successors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from app.domain.jobs import JobKind, Stage
from app.domain.renewal import ExactMode, RenewalPolicy, is_budget_spent

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork
    from worker.job_run import JobRun
    from worker.learner import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The columns of a release that describe its lineage; see `app.domain.releases.Release`."""

    training_seconds: float | None = None
    training_rows: int | None = None
    forgotten_rows: int = 0
    drift: dict[str, Any] | None = None

    @classmethod
    def of(cls, release: Release) -> Self:
        """Return the values that a release with the same weights inherits."""
        return cls(
            training_seconds=release.training_seconds,
            training_rows=release.training_rows,
            forgotten_rows=release.forgotten_rows,
            drift=release.drift,
        )

    def after_unlearning(self, verdict: Verdict) -> Self:
        """Return the values of a fast successor, whose audit has counted its forget rows."""
        drift = verdict.drift
        return replace(
            self,
            forgotten_rows=self.forgotten_rows + verdict.forgotten_rows,
            drift=drift if drift is not None and drift["increase"] is not None else None,
        )


def must_retrain(parent: Release, settings: Settings) -> bool:
    """Return whether no renewal will follow, although the parent's drift budget is spent."""
    if settings.exact is not ExactMode.OFF:
        return False
    policy = RenewalPolicy(drift_rows=settings.drift_rows, drift_loss=settings.drift_loss)
    return is_budget_spent(policy, parent.forgotten_share, parent.loss_increase)


def training_seconds(run: JobRun, uow: UnitOfWork, attempt_seconds: float) -> float:
    """Return the expected seconds of such a training, from its snapshot to the end of its rollout.

    `attempt_seconds` are those of the training and its audit, without failed attempts to unlearn.
    The snapshot and the publication are those of this claim, which did all of the work: a claim
    that died before is not a part of it. The rollout is still to come, so the time of the last one
    is taken, preferably of a training.
    """
    rollout = uow.jobs.last_rollout_seconds((JobKind.TRAIN, JobKind.RENEW))
    if rollout is None:
        rollout = uow.jobs.last_rollout_seconds(tuple(JobKind)) or 0.0
    own_seconds = run.claim_seconds(Stage.SNAPSHOT) + run.claim_seconds(Stage.PUBLISH)
    return own_seconds + attempt_seconds + rollout
