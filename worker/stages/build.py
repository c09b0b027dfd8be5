"""Build audited weights from a data snapshot: unlearn, merge and audit, or retrain.

Attempts escalate until an audit does not fail: unlearning, stronger unlearning, then exact
retraining on the retained rows. A failed attempt leaves only its figures in the job's metrics.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.jobs import JobKind, Stage
from app.domain.requests import Outcome
from worker.errors import (
    AuditFailedError,
    ReleaseMissingError,
    RenewalQualityError,
    TrainingDivergedError,
    UnlearningFailedError,
)
from worker.learner import EXACT_METHOD, RequestFigures, Verdict
from worker.lineage import Lineage, must_retrain
from worker.training_record import forget_indices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from app.domain.releases import Release
    from worker.job_run import JobRun
    from worker.learner import Artifact, DataSnapshot

#: The strengths of `Learner.unlearn`, in the order of the attempts.
_STRENGTHS: Final = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Weights that may be published. `outcome` is None for a first release, which has no parent."""

    artifact: Artifact
    outcome: Outcome | None
    figures: dict[str, Any]
    lineage: Lineage = field(default_factory=Lineage)
    #: The figures of a new lineage by which the drift of successors is measured.
    evaluation: dict[str, Any] = field(default_factory=dict)
    #: Seconds of a training from scratch and its audit; None: the weights were made otherwise.
    attempt_seconds: float | None = None
    #: The figures of each request of the batch, by request id.
    by_request: Mapping[str, RequestFigures] = field(default_factory=dict)
    #: The facts of a training from scratch on the job's snapshot; None for other weights.
    from_scratch: dict[str, Any] | None = None


class Builder:
    """Builds the weights of one job in the job's staging directory."""

    def __init__(
        self,
        run: JobRun,
        snapshot: DataSnapshot,
        parent: Release | None,
        *,
        lost_parent: Release | None = None,
    ) -> None:
        """Take the live release as `parent`, or as `lost_parent` if its files are gone."""
        self._lost_parent = lost_parent
        self._run = run
        self._learner = run.context.learner
        self._snapshot = snapshot
        self._parent = parent
        #: The kinds of rows because of which fast unlearning was not tried.
        self._unmeasured: tuple[str, ...] = ()

    def build(self) -> Built:
        """Return weights whose audit did not fail. Raises AuditFailedError if there are none."""
        parent = self._parent
        if parent is None or self._needs_retraining(parent):
            return self._retrain()
        if not self._learner.has_training_rows(self._snapshot, self._directory(parent)):
            return self._carry_over(parent)
        if self._is_unmeasured(parent):
            return self._retrain()
        for failed_attempts, strength in enumerate(_STRENGTHS):
            built = self._unlearn(parent, strength)
            if built is not None:
                return _after_failures(built, failed_attempts)
        return _after_failures(self._retrain(), len(_STRENGTHS))

    def _needs_retraining(self, parent: Release) -> bool:
        job = self._run.job
        return (
            job.kind is not JobKind.FORGET
            or job.method == EXACT_METHOD
            or must_retrain(parent, self._run.context.settings)
            or self._learner.must_retrain(self._snapshot, self._directory(parent))
        )

    def _is_unmeasured(self, parent: Release) -> bool:
        """Return whether fast unlearning may not help the batch, and keep for which kinds.

        The kinds are recorded with the attempt, because another claim of the job can decide
        otherwise.
        """
        if self._run.context.settings.fast == "always":
            return False
        self._unmeasured = self._learner.unmeasured_kinds(self._snapshot, self._directory(parent))
        return bool(self._unmeasured)

    def _carry_over(self, parent: Release) -> Built:
        """Reuse the parent's weights, which do not depend on this batch."""
        self._run.begin(Stage.MERGE)
        artifact = self._learner.carry_over(
            self._directory(parent), self._run.staging / "release", job_id=self._run.job.id
        )
        return Built(
            artifact=artifact,
            outcome=Outcome.NOT_APPLICABLE,
            figures={},
            lineage=Lineage.of(parent),
            by_request=self._with_known_rows(
                parent,
                dict.fromkeys(self._snapshot.requests, RequestFigures(is_carried_over=True)),
            ),
        )

    def _unlearn(self, parent: Release, strength: int) -> Built | None:
        """Unlearn at this strength; return None if training diverges or the audit fails."""
        run, parent_directory = self._run, self._directory(parent)
        attempt, started_at = f"try-{strength}", time.monotonic()
        directory = run.staging / attempt
        run.begin(Stage.UNLEARN)
        try:
            adapter = self._learner.unlearn(
                self._snapshot,
                parent_directory,
                directory / "adapter",
                strength=strength,
                report=run.reporter(Stage.UNLEARN),
            )
        except UnlearningFailedError:
            diverged = Verdict(outcome=Outcome.FAILED, figures={"diverged": True})
            self._record(attempt, None, diverged, {})
            return None
        artifact = adapter
        if adapter.needs_merge:
            run.begin(Stage.MERGE)
            artifact = self._learner.merge(
                parent_directory, adapter.directory, directory / "release"
            )
        verdict = self._audit(parent_directory, artifact, exact=adapter.exact)
        adapter_files = {f"adapter/{name}": sha for name, sha in adapter.intermediates.items()}
        self._record(attempt, artifact, verdict, adapter_files | artifact.intermediates)
        if verdict.outcome is Outcome.FAILED:
            return None
        built = Built(
            artifact=artifact,
            outcome=Outcome.EXACT if adapter.exact else verdict.outcome,
            figures=verdict.figures,
            lineage=Lineage.of(parent).after_unlearning(verdict),
            by_request=self._with_known_rows(parent, verdict.by_request),
            from_scratch=self._training_facts(adapter) if adapter.exact else None,
        )
        if adapter.exact:
            return self._as_root(built, adapter, started_at)
        return replace(built, figures={**verdict.figures, "drift": verdict.drift})

    def _retrain(self) -> Built:
        """Train from scratch on the retained rows, which starts a new lineage."""
        started_at = time.monotonic()
        artifact = self._train()
        facts = self._training_facts(artifact)
        if self._parent is None:
            self._record("exact", artifact, None, artifact.intermediates)
            built = replace(self._built_without_parent(artifact), from_scratch=facts)
            return self._as_root(built, artifact, started_at)
        verdict = self._audit(self._directory(self._parent), artifact, exact=True)
        self._record("exact", artifact, verdict, artifact.intermediates)
        quality = verdict.figures.get("quality", {})
        if self._run.job.kind is JobKind.RENEW and quality.get("outcome") == "failed":
            raise self._renewal_rejected(quality["reason"])
        if verdict.outcome is Outcome.FAILED:
            raise AuditFailedError
        built = Built(
            artifact=artifact,
            outcome=Outcome.EXACT,
            figures=verdict.figures,
            by_request=self._with_known_rows(self._parent, verdict.by_request),
            from_scratch=facts,
        )
        return self._as_root(built, artifact, started_at)

    def _as_root(self, built: Built, trained: Artifact, started_at: float) -> Built:
        """Return the weights as the root of a new lineage, with nothing forgotten.

        A training from scratch is measured. Initial weights, and ensembles of which only some
        members were trained, take less time, so that the parent's training time stays.
        """
        is_from_scratch = trained.method == EXACT_METHOD
        seconds = time.monotonic() - started_at
        known = self._parent.training_seconds if self._parent else None
        return replace(
            built,
            lineage=Lineage(training_seconds=known, training_rows=trained.training_rows),
            evaluation=trained.evaluation,
            attempt_seconds=seconds if is_from_scratch else None,
        )

    def _built_without_parent(self, artifact: Artifact) -> Built:
        """Return a first release, or the exact successor of a release whose files are gone.

        The latter is not compared with the lost weights. What they knew of each request of the
        batch is not known, so each request gets the outcome of the batch.
        """
        is_first = self._lost_parent is None
        figures = RequestFigures(is_unknown=True)
        return Built(
            artifact=artifact,
            outcome=None if is_first else Outcome.EXACT,
            figures={},
            by_request={} if is_first else dict.fromkeys(self._snapshot.requests, figures),
        )

    def _train(self) -> Artifact:
        """Train in the staging directory. Raises RenewalQualityError if a renewal diverges."""
        run = self._run
        run.begin(Stage.TRAIN)
        is_renewal = run.job.kind is JobKind.RENEW
        try:
            return self._learner.train(
                self._snapshot,
                run.staging / "exact" / "release",
                self._backbone(),
                run.reporter(Stage.TRAIN),
                renewal_seed=int(run.job.settings.get("seed", 0)) if is_renewal else None,
            )
        except TrainingDivergedError as error:
            if not is_renewal:
                raise
            raise self._renewal_rejected("the training diverged") from error

    def _renewal_rejected(self, reason: str) -> RenewalQualityError:
        """Record that another seed must follow, and return the error that ends the job."""
        self._run.advance(metrics={"quality_failed": True})
        return RenewalQualityError(reason=reason)

    def _training_facts(self, artifact: Artifact) -> dict[str, Any]:
        """Return what an exact certificate states about the training."""
        data = self._snapshot.data
        (erased,) = forget_indices(data, [self._snapshot.forget])
        rows = artifact.metrics.get("rows")
        return {
            "data_version": self._snapshot.version,
            "ratings": len(data) - int(erased.rows(data).sum()),
            "training_rows": rows.get("train") if isinstance(rows, dict) else rows,
            "seed": artifact.metrics.get("seed"),
            "method": artifact.method,
        }

    def _with_known_rows(
        self, parent: Release, by_request: Mapping[str, RequestFigures]
    ) -> dict[str, RequestFigures]:
        """Add to each request the number of its rows that the parent's exact training had."""
        counts = self._learner.count_known_rows(self._snapshot, self._directory(parent))
        return {
            request_id: replace(figures, known_rows=counts.get(request_id))
            for request_id, figures in by_request.items()
        }

    def _backbone(self) -> str | Path:
        """Return the job's backbone, else the parent's directory, else the backbone in settings."""
        backbone: str | None = self._run.job.settings.get("backbone")
        if backbone:
            return backbone
        if self._parent is not None:
            return self._directory(self._parent)
        return self._backbone_of_lineage() or self._run.context.settings.backbone

    def _backbone_of_lineage(self) -> str | None:
        """Return the backbone that an operator chose for the lineage of the lost parent, if any."""
        release = self._lost_parent
        with self._run.context.uow_factory(write=False) as uow:
            while release is not None:
                backbone: str | None = uow.jobs.get(release.job_id).settings.get("backbone")
                if backbone:
                    return backbone
                release = None if release.parent is None else uow.releases.get(release.parent)
        return None

    def _audit(self, parent: Path, artifact: Artifact, *, exact: bool) -> Verdict:
        self._run.begin(Stage.AUDIT)
        return self._learner.audit(
            self._snapshot,
            parent,
            artifact.directory,
            exact=exact,
            report=self._run.reporter(Stage.AUDIT),
        )

    def _record(
        self,
        attempt: str,
        artifact: Artifact | None,
        verdict: Verdict | None,
        intermediates: dict[str, str],
    ) -> None:
        """Add an attempt's figures and the digests of its temporary files to the job's metrics."""
        run = self._run
        figures = {
            "epoch": run.lease.epoch,
            "attempt": attempt,
            "method": artifact.method if artifact else run.job.method,
            "training": artifact.metrics if artifact else {},
            "outcome": verdict.outcome.value if verdict else None,
            "audit": verdict.figures if verdict else {},
            "unmeasured_kinds": list(self._unmeasured),
        }
        prefix = f"staging/{run.job.id}/{run.lease.epoch}/{attempt}"
        digests = {f"{prefix}/{name}": digest for name, digest in intermediates.items()}
        run.advance(
            metrics={
                "tries": [*run.job.metrics.get("tries", []), figures],
                "shredded": {**run.job.metrics.get("shredded", {}), **digests},
            }
        )

    def _directory(self, release: Release) -> Path:
        try:
            return self._run.read(release.path)
        except FileNotFoundError as error:
            raise ReleaseMissingError(release_id=release.id) from error


def _after_failures(built: Built, failed_attempts: int) -> Built:
    """Return the weights with the number of earlier attempts whose audit failed."""
    return replace(
        built,
        by_request={
            request_id: replace(figures, failed_attempts=failed_attempts)
            for request_id, figures in built.by_request.items()
        },
    )
