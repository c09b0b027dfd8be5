"""From frozen data to audited weights: unlearn, fold, audit, and escalate inside the job.

The order of escalation is the design's: a first try, a stronger one, then exact retraining on the
retained rows. Nothing is published here; a candidate that fails leaves only its figures behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome
from worker.errors import AuditFailedError, ReleaseMissingError, UnlearningFailedError
from worker.learner import EXACT_METHOD, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.releases import Release
    from worker.learner import Artifact, DataSnapshot
    from worker.run import JobRun

#: The strengths of `Learner.unlearn`, in the order in which they are tried.
STRENGTHS: Final = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Weights that may be published. `outcome` is None for a first release: nothing to compare."""

    artifact: Artifact
    outcome: Outcome | None
    figures: dict[str, Any]
    error_budget_spent: int


class Builder:
    """Makes the weights of one job in its staging directory."""

    def __init__(self, run: JobRun, snapshot: DataSnapshot, parent: Release | None) -> None:
        self._run = run
        self._learner = run.context.learner
        self._snapshot = snapshot
        self._parent = parent

    def build(self) -> Built:
        """Return weights that passed, or raise AuditFailedError."""
        parent = self._parent
        if parent is None or self._wants_exact(parent):
            return self._exact()
        if not self._learner.has_training_rows(self._snapshot, self._directory(parent)):
            return self._carried_over(parent)
        for strength in STRENGTHS:
            built = self._attempt(parent, strength)
            if built is not None:
                return built
        return self._exact()

    def _wants_exact(self, parent: Release) -> bool:
        job = self._run.job
        return (
            job.kind is not JobKind.FORGET
            or job.method == EXACT_METHOD
            or self._budget_is_spent(parent)
        )

    def _budget_is_spent(self, parent: Release) -> bool:
        return parent.error_budget_spent >= self._run.context.settings.error_budget

    def _carried_over(self, parent: Release) -> Built:
        """No weight ever saw this batch: a release without it, and nothing pretended."""
        self._run.begin(Stage.MERGE)
        artifact = self._learner.carry_over(
            self._directory(parent), self._run.staging / "release", job_id=self._run.job.id
        )
        return Built(
            artifact=artifact,
            outcome=Outcome.NOT_APPLICABLE,
            figures={},
            error_budget_spent=parent.error_budget_spent,
        )

    def _attempt(self, parent: Release, strength: int) -> Built | None:
        """Unlearn at one strength; None where that diverges or the audit says that it failed."""
        run, source = self._run, self._directory(parent)
        workshop = run.staging / f"try-{strength}"
        run.begin(Stage.UNLEARN)
        try:
            adapter = self._learner.unlearn(
                self._snapshot,
                source,
                workshop / "adapter",
                strength=strength,
                report=run.reporter(Stage.UNLEARN),
            )
        except UnlearningFailedError:
            diverged = Verdict(outcome=Outcome.FAILED, figures={"diverged": True})
            self._note(f"try-{strength}", None, diverged, {})
            return None
        artifact = adapter
        if adapter.needs_merge:
            run.begin(Stage.MERGE)
            artifact = self._learner.merge(source, adapter.directory, workshop / "release")
        verdict = self._audit(source, artifact, exact=adapter.exact)
        made = {f"adapter/{name}": digest for name, digest in adapter.intermediates.items()}
        self._note(f"try-{strength}", artifact, verdict, made | artifact.intermediates)
        if verdict.outcome is Outcome.FAILED:
            return None
        inconclusive = verdict.outcome is Outcome.INCONCLUSIVE
        return Built(
            artifact=artifact,
            outcome=Outcome.EXACT if adapter.exact else verdict.outcome,
            figures=verdict.figures,
            # What is exact starts a new lineage: it owes nothing to earlier doubts.
            error_budget_spent=0 if adapter.exact else parent.error_budget_spent + inconclusive,
        )

    def _exact(self) -> Built:
        """Train from scratch on the retained rows; a new lineage with a fresh error budget."""
        run = self._run
        run.begin(Stage.TRAIN)
        artifact = self._learner.train(
            self._snapshot,
            run.staging / "exact" / "release",
            self._backbone(),
            run.reporter(Stage.TRAIN),
        )
        if self._parent is None:
            self._note("exact", artifact, None, artifact.intermediates)
            return Built(artifact=artifact, outcome=None, figures={}, error_budget_spent=0)
        verdict = self._audit(self._directory(self._parent), artifact, exact=True)
        self._note("exact", artifact, verdict, artifact.intermediates)
        if verdict.outcome is Outcome.FAILED:
            raise AuditFailedError
        return Built(
            artifact=artifact,
            outcome=Outcome.EXACT,
            figures=verdict.figures,
            error_budget_spent=0,
        )

    def _backbone(self) -> str | Path:
        """Return what was asked for, or the parent to be like, or what the settings say."""
        asked: str | None = self._run.job.settings.get("backbone")
        if asked:
            return asked
        if self._parent is not None:
            return self._directory(self._parent)
        return self._run.context.settings.backbone

    def _audit(self, parent: Path, artifact: Artifact, *, exact: bool) -> Verdict:
        self._run.begin(Stage.AUDIT)
        return self._learner.audit(
            self._snapshot,
            parent,
            artifact.directory,
            exact=exact,
            report=self._run.reporter(Stage.AUDIT),
        )

    def _note(
        self,
        attempt: str,
        artifact: Artifact | None,
        verdict: Verdict | None,
        intermediates: dict[str, str],
    ) -> None:
        """Keep the figures of every try with the job, and the digests of what it made."""
        run = self._run
        tried = {
            "epoch": run.lease.epoch,
            "attempt": attempt,
            "method": artifact.method if artifact else run.job.method,
            "training": artifact.metrics if artifact else {},
            "outcome": verdict.outcome.value if verdict else None,
            "audit": verdict.figures if verdict else {},
        }
        prefix = f"staging/{run.job.id}/{run.lease.epoch}/{attempt}"
        made = {f"{prefix}/{name}": digest for name, digest in intermediates.items()}
        run.advance(
            metrics={
                "tries": [*run.job.metrics.get("tries", []), tried],
                "shredded": {**run.job.metrics.get("shredded", {}), **made},
            }
        )

    def _directory(self, release: Release) -> Path:
        try:
            return self._run.context.artifacts.local_path(release.path)
        except FileNotFoundError as error:
            raise ReleaseMissingError(release_id=release.id) from error
