"""The learner that the pipeline works with: `models` behind the Learner protocol.

Turns frozen data into releases in directories. Knows nothing of leases or rows.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from models.audit.calibration import CalibrationConfig, ExpectedLossIncrease, calibrate
from models.audit.report import audit, audit_exact
from models.backbones.compact import UnknownBackboneError
from models.backbones.errors import BackboneUnavailableError
from models.backbones.lora import AdapterTargetError
from models.checkpoints import adapter as adapters
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.data.splits import RowLimits, TimeSplit, TooSmallToSplitError
from models.prompts.text_prompt import NoAnswerTokensError, PromptTooLongError
from models.prompts.vocabulary import Vocabulary
from models.recommender.ensemble import EnsembleConfig
from models.recommender.factory import backbone_from_manifest, build, parse_backbone
from models.recommender.token_rows import reset_rows, unused_tokens
from models.recommender.trainable import own_state
from models.training.recipes import recipe_for, recipe_of
from models.training.step import DivergedError, memory_report
from models.unlearning.base import PLAIN, UnlearningTask
from models.unlearning.ensemble import weighed
from models.unlearning.registry import UnknownMethodError, get_method
from worker.errors import ReleaseUnusableError, UnlearningFailedError
from worker.learner import EXACT_METHOD, UNTRAINED_METHOD, Artifact, ForgetSet, Verdict
from worker.qualities import qualities
from worker.training_data import data_hash, holdout_indices, prepare_snapshot, prepare_within

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.settings import Settings
    from models.backbones.compact import BackboneConfig
    from models.checkpoints.manifest import Manifest
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.training.trainer import TrainConfig
    from models.unlearning.base import Unlearned, UnlearningMethod
    from worker.learner import DataSnapshot, Report

#: With these it is the backbone that must be another one.
_UNUSABLE: Final = (
    AdapterTargetError,
    BackboneUnavailableError,
    NoAnswerTokensError,
    PromptTooLongError,
)


class ModelLearner:
    """Trains, unlearns, folds and audits on this machine, seeded throughout."""

    def __init__(
        self,
        settings: Settings,
        recipes: Callable[[BackboneConfig], TrainConfig] | None = None,
        calibration: CalibrationConfig | None = None,
    ) -> None:
        """Take the method from the settings; an unknown one is refused at once."""
        try:
            self._method = get_method(settings.method)
        except UnknownMethodError as error:
            raise InvalidInputError(f"LETHE_METHOD: {error}") from error
        self._settings = settings
        self._recipes = recipes or partial(recipe_for, dtype=settings.dtype)
        self._calibration = calibration or CalibrationConfig(seed=settings.seed + 1)

    def train(
        self, snapshot: DataSnapshot, into: Path, backbone: str | Path, report: Report
    ) -> Artifact:
        """Train on the retained rows, measure against the baselines, calibrate, and save.

        Where deletions have left too little to train on, the exact result is a model that was
        trained on nobody. Raises InvalidInputError where nothing was to be forgotten, or where the
        backbone is not to be had.
        """
        recipe = self._recipe(backbone)
        try:
            prepared = prepare_within(snapshot, None, recipe.limits)
        except TooSmallToSplitError as error:
            if snapshot.forget == ForgetSet():
                raise InvalidInputError(str(error)) from error
            return self._untrained(snapshot, into, recipe)
        try:
            return self._trained(snapshot, prepared, into, recipe, report)
        except _UNUSABLE as error:
            raise InvalidInputError(str(error)) from error

    def _trained(
        self,
        snapshot: DataSnapshot,
        prepared: ForgetSplit,
        into: Path,
        recipe: TrainConfig,
        report: Report,
    ) -> Artifact:
        vocabulary = Vocabulary.from_catalog(prepared.retained)
        method = self._method_for(recipe)
        started = time.monotonic()
        recommender = method.train(
            vocabulary, prepared, recipe, lambda fraction: report(fraction * 0.5)
        )
        fitted = time.monotonic()
        if recipe.backbone.adapter is not None:  # Now it names the weights that it stands on.
            recipe = replace(recipe, backbone=recommender.config)
        expected = calibrate(
            prepared.retained,
            recommender,
            prepared,
            holdout_indices(snapshot),
            self._calibration,
            lambda rows: method.train(
                vocabulary, rows, recipe, lambda fraction: report(0.5 + fraction * 0.5)
            ),
        )
        metrics: dict[str, Any] = {
            **qualities(recommender, prepared),
            "rows": {
                "train": len(prepared.parts.train),
                "valid": len(prepared.parts.valid),
                "test": len(prepared.parts.test),
                "holdout": len(prepared.parts.holdout),
            },
            "expected_rise": {
                kind: asdict(loss_increase) for kind, loss_increase in expected.items()
            },
            "parameters": sum(p.numel() for p in recommender.model.parameters()),
            "trained_parameters": sum(t.numel() for t in own_state(recommender).values()),
            **memory_report(recommender),
            "fit_seconds": fitted - started,
            "calibration_seconds": time.monotonic() - fitted,
        }
        loss_increases = metrics["expected_rise"]
        manifest = self._save_root(
            recommender, prepared, into, EXACT_METHOD, snapshot, recipe, loss_increases
        )
        return Artifact(
            directory=into, digest=manifest.digest, method=manifest.method, metrics=metrics
        )

    def _untrained(self, snapshot: DataSnapshot, into: Path, recipe: TrainConfig) -> Artifact:
        """Save the initial weights: nobody's, and no row counts as one they were trained on."""
        bounds = TimeSplit(valid_from=0, test_from=1)
        prepared = prepare_within(snapshot, bounds)
        vocabulary = Vocabulary.from_catalog(prepared.retained)
        recommender = build(vocabulary, recipe.backbone)
        manifest = self._save_root(
            recommender, prepared, into, UNTRAINED_METHOD, snapshot, recipe, {}
        )
        return Artifact(directory=into, digest=manifest.digest, method=manifest.method)

    def _save_root(
        self,
        recommender: Recommender,
        prepared: ForgetSplit,
        into: Path,
        method: str,
        snapshot: DataSnapshot,
        recipe: TrainConfig,
        expected: dict[str, Any],
    ) -> Manifest:
        """Save a release without a parent: the root of a lineage, which later ones inherit from."""
        return checkpoints.save(
            recommender,
            into,
            method=method,
            extra={
                "job": snapshot.job_id,
                "bounds": prepared.bounds.manifest(),
                "expected": expected,
                "recipe": recipe.manifest(),
                "data_sha256": data_hash(prepared),
            },
        )

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Report
    ) -> Artifact:
        """Train the adapter that forgets; `into` gets the delta, which must be shredded."""
        manifest = manifests.read_manifest(parent)
        prepared = prepare_snapshot(snapshot, manifest)
        if not len(prepared.parts.train):
            # Nobody is left to remember: only the exact way is open.
            raise UnlearningFailedError
        recipe = self._recipe(parent)
        if self._method_for(recipe) is not self._method:
            raise UnlearningFailedError
        recommender = _load(parent)
        if self._method.root == PLAIN and isinstance(recommender.config, EnsembleConfig):
            # The method was switched: the exact way trains the kind of release that it needs.
            raise UnlearningFailedError
        task = UnlearningTask(
            recommender=recommender,
            prepared=prepared,
            expected=_expected(manifest),
            recipe=recipe,
            seed=self._settings.seed,
            strength=strength,
        )
        try:
            result = self._method.unlearn(task, report)
        except DivergedError as error:
            raise UnlearningFailedError from error
        except _UNUSABLE as error:
            raise InvalidInputError(str(error)) from error
        if recommender.config.adapter is not None:
            return self._replaced(result, manifest, into, snapshot)
        saved = self._save_unmerged(result, into, manifest.digest, snapshot, prepared)
        return Artifact(
            directory=into,
            digest=saved.digest,
            method=self._method.name,
            exact=self._method.exact,
            metrics=result.metrics,
            intermediates={
                name: manifests.sha256_file(into / name)
                for name in (manifests.WEIGHTS, manifests.MANIFEST)
            },
        )

    def _replaced(
        self, result: Unlearned, before: Manifest, into: Path, snapshot: DataSnapshot
    ) -> Artifact:
        """Save the new adapter, which replaces the parent's: it is the release as it is."""
        found = self._next_release(
            result.recommender, before, into, self._method.name, snapshot.job_id
        )
        return replace(found, exact=self._method.exact, metrics=result.metrics, needs_merge=False)

    def _save_unmerged(
        self,
        result: Unlearned,
        into: Path,
        parent: str,
        snapshot: DataSnapshot,
        prepared: ForgetSplit,
    ) -> Manifest:
        """Save what the method left: an adapter still to be folded, or weights of their own."""
        name, model = self._method.name, result.recommender
        extra = {"job": snapshot.job_id, "reset_tokens": unused_tokens(model, prepared)}
        if result.adapter is None:
            return checkpoints.save(
                model, into, method=name, parent=parent, extra=extra, kind=manifests.UNMERGED
            )
        return adapters.save(
            model,
            into,
            result.adapter,
            method=name,
            parent=parent,
            extra=extra,
            rows=result.rows,
        )

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        """Fold the delta into its parent; rows that no retained sample has become initial again.

        Weights of their own, which a method without an adapter leaves, need only the latter.
        """
        before = manifests.read_manifest(parent)
        delta = manifests.read_manifest(adapter)
        if delta.content["kind"] == manifests.UNMERGED and delta.parent == before.digest:
            merged = _load(adapter, manifests.UNMERGED)
        else:
            merged = adapters.merge(_load(parent), before.digest, adapter)
        reset_rows(merged, delta.extra["reset_tokens"])
        return self._next_release(merged, before, into, delta.method, delta.extra["job"])

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        """Save the parent's weights under a new manifest: no weight ever saw this batch."""
        before = manifests.read_manifest(parent)
        return self._next_release(_load(parent), before, into, "carry-over", job_id)

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Say whether any sample that the parent's weights know contains what is forgotten."""
        manifest = manifests.read_manifest(parent)
        prepared = prepare_snapshot(snapshot, manifest)
        if prepared.forget_valid and weighed(backbone_from_manifest(manifest.content["backbone"])):
            return True
        return len(prepared.forget) > 0

    def audit(
        self, snapshot: DataSnapshot, parent: Path, candidate: Path, *, exact: bool, report: Report
    ) -> Verdict:
        """Compare the folded weights, as they will be served, with their parent's."""
        manifest = manifests.read_manifest(parent)
        old, new = _load(parent), _load(candidate)
        report(0.1)
        if exact:  # By its own split: what was trained anew may be another kind of model.
            own = manifests.read_manifest(candidate)
            found = audit_exact(old, new, prepare_snapshot(snapshot, own))
        else:
            found = audit(old, new, prepare_snapshot(snapshot, manifest), _expected(manifest))
        report(1.0)
        return Verdict(outcome=Outcome(found.outcome), figures=found.figures)

    def _method_for(self, recipe: TrainConfig) -> UnlearningMethod:
        """Return the method; exact retraining stands in where it would need several adapters."""
        if recipe.backbone.adapter is not None and self._method.root != PLAIN:
            return get_method(EXACT_METHOD)
        return self._method

    def _recipe(self, backbone: str | Path) -> TrainConfig:
        """Return how to train on a backbone that a person names, or like the release at a path.

        Raises InvalidInputError.
        """
        try:
            if isinstance(backbone, str):
                recipe = self._limited(self._recipes(parse_backbone(backbone)))
            else:
                recipe = recipe_of(manifests.read_manifest(backbone).extra["recipe"])
        except UnknownBackboneError as error:
            raise InvalidInputError(str(error)) from error
        return recipe.seeded(self._settings.seed)

    def _limited(self, recipe: TrainConfig) -> TrainConfig:
        settings, known = self._settings, recipe.limits
        limits = RowLimits(
            train=settings.train_rows or known.train,
            evaluation=settings.evaluation_rows or known.evaluation,
        )
        return replace(recipe, limits=limits)

    def _next_release(
        self, recommender: Recommender, before: Manifest, into: Path, method: str, job_id: str
    ) -> Artifact:
        """Save a release that inherits its parent's bounds, recipe and calibration."""
        inherited = {k: v for k, v in before.extra.items() if k != "data_sha256"}
        manifest = checkpoints.save(
            recommender,
            into,
            method=method,
            parent=before.digest,
            extra={**inherited, "job": job_id},
        )
        return Artifact(directory=into, digest=manifest.digest, method=method)


def _load(directory: Path, kind: str = manifests.RELEASE) -> Recommender:
    """Load weights; raises ReleaseUnusableError, whose message a job's row may show."""
    try:
        return checkpoints.load(directory, kind)
    except manifests.CheckpointError as error:
        raise ReleaseUnusableError(reason=str(error).rstrip(".")) from error


def _expected(manifest: Manifest) -> dict[str, ExpectedLossIncrease]:
    return {
        kind: ExpectedLossIncrease(**loss_increase)
        for kind, loss_increase in manifest.extra["expected"].items()
    }
