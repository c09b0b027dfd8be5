"""Train, unlearn, merge and audit releases with `models`, as the pipeline's `Learner`."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from models.audit.calibration import CalibrationConfig, ShadowFailedError, calibrate
from models.audit.quality import UNUSABLE
from models.audit.report import audit, audit_exact
from models.backbones.compact import UnknownBackboneError
from models.backbones.errors import BackboneUnavailableError
from models.backbones.lora import AdapterTargetError
from models.checkpoints import adapter as adapters
from models.checkpoints import manifest as manifests
from models.data.forget_split import KINDS
from models.data.splits import RowLimits, TimeSplit, TooSmallToSplitError
from models.prompts.text_prompt import NoAnswerTokensError, PromptTooLongError
from models.prompts.vocabulary import Vocabulary
from models.recommender.ensemble import EnsembleConfig
from models.recommender.factory import backbone_from_manifest, build, parse_backbone
from models.recommender.token_rows import reset_rows
from models.training.recipes import recipe_for, recipe_of
from models.training.step import DivergedError
from models.unlearning.base import PLAIN, NothingToForgetError, UnlearningTask
from models.unlearning.ensemble import has_learned_weights
from models.unlearning.registry import UnknownMethodError, get_method
from worker.drift import measure_drift
from worker.errors import ReleaseUnusableError, TrainingDivergedError, UnlearningFailedError
from worker.learner import EXACT_METHOD, UNTRAINED_METHOD, Artifact, ForgetSet, Verdict
from worker.release_files import (
    expected_loss_increases,
    load_release,
    memorization,
    person_calibration,
    save_root,
    save_successor,
    save_unmerged,
)
from worker.training_data import (
    figures_by_request,
    forget_rows_by_request,
    holdout_indices,
    selects_on_validation,
    split_like,
    split_snapshot,
)
from worker.training_metrics import training_metrics
from worker.training_record import TrainingRecord, are_unknown, count_known_rows
from worker.verdicts import judged_requests, release_verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.settings import Settings
    from models.audit.calibration import Calibration
    from models.backbones.compact import BackboneConfig
    from models.data.forget_split import ForgetSplit
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningMethod
    from worker.learner import DataSnapshot

log = structlog.get_logger(__name__)

#: The backbone cannot be used; the operator has to choose another one.
_BACKBONE_ERRORS: Final = (
    AdapterTargetError,
    BackboneUnavailableError,
    NoAnswerTokensError,
    PromptTooLongError,
)


class ModelLearner:
    """Implements `worker.learner.Learner` on this machine. All training is seeded."""

    def __init__(
        self,
        settings: Settings,
        recipes: Callable[[BackboneConfig], TrainConfig] | None = None,
        calibration: CalibrationConfig | None = None,
    ) -> None:
        """Select the method in the settings. Raises InvalidInputError if it is unknown."""
        try:
            self._method = get_method(settings.method)
        except UnknownMethodError as error:
            raise InvalidInputError(f"LETHE_METHOD: {error}") from error
        self._settings = settings
        self._recipes = recipes or partial(recipe_for, dtype=settings.dtype)
        self._calibration = calibration or CalibrationConfig(seed=settings.seed + 1)

    def train(
        self,
        snapshot: DataSnapshot,
        into: Path,
        backbone: str | Path,
        report: Progress,
        *,
        renewal_seed: int | None = None,
    ) -> Artifact:
        """Train on the retained rows, calibrate, measure and save.

        The release has no calibration if the shadow model fails.
        If deletions left too few rows to train on, save initial weights. Raises InvalidInputError
        if the data set itself is too small, or if the backbone cannot be used.
        """
        recipe = self._recipe(backbone, self._settings.seed + (renewal_seed or 0))
        try:
            split = split_snapshot(snapshot, None, recipe.limits)
        except TooSmallToSplitError as error:
            if snapshot.forget == ForgetSet() and renewal_seed is None:
                raise InvalidInputError(str(error)) from error
            return _save_untrained(snapshot, into, recipe)
        try:
            return self._train(snapshot, split, into, recipe, report)
        except DivergedError as error:
            raise TrainingDivergedError from error
        except _BACKBONE_ERRORS as error:
            raise InvalidInputError(str(error)) from error

    def _train(
        self,
        snapshot: DataSnapshot,
        split: ForgetSplit,
        into: Path,
        recipe: TrainConfig,
        report: Progress,
    ) -> Artifact:
        vocabulary = Vocabulary.from_catalog(split.catalog())
        method = self._method_for(recipe)
        # No audit of an ensemble needs a calibration, because only exact methods unlearn on one.
        is_calibrated = method.root == PLAIN
        share = 0.5 if is_calibrated else 1.0
        started_at = time.monotonic()
        recommender = method.train(
            vocabulary, split, recipe, lambda fraction: report(fraction * share)
        )
        trained_at = time.monotonic()
        if recipe.backbone.adapter is not None:
            # Training resolved the backbone's name to its exact weights.
            recipe = replace(recipe, backbone=recommender.config)
        calibration: Calibration | None = None
        if is_calibrated:
            try:
                calibration = calibrate(
                    split.retained,
                    recommender,
                    split,
                    holdout_indices(snapshot),
                    self._calibration,
                    lambda shadow_split: method.train(
                        vocabulary,
                        shadow_split,
                        recipe,
                        lambda fraction: report(0.5 + fraction * 0.5),
                    ),
                )
            except ShadowFailedError as error:
                # Audits of this lineage are inconclusive without a calibration.
                log.warning("calibration_failed", job=snapshot.job_id, error=str(error))
        metrics = {
            **training_metrics(recommender, split, calibration.expected if calibration else {}),
            "seed": recipe.seed,
            "fit_seconds": trained_at - started_at,
            "calibration_seconds": time.monotonic() - trained_at,
        }
        artifact = save_root(
            recommender,
            into,
            method=EXACT_METHOD,
            snapshot=snapshot,
            split=split,
            recipe=recipe,
            calibration=calibration,
        )
        return replace(artifact, metrics=metrics)

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        """Run the unlearning method on the parent and save the result in `into`.

        Raises UnlearningFailedError if only retraining remains: no training rows are left, the
        method does not fit the parent, or training diverges.
        """
        recipe = self._recipe(parent)
        if self._method_for(recipe) is not self._method:
            raise UnlearningFailedError
        if self._method.exact:
            return self._unlearn_exactly(snapshot, parent, into, recipe, report)
        manifest = manifests.read_manifest(parent)
        split = split_like(snapshot, manifest)
        if not len(split.parts.train):
            raise UnlearningFailedError
        recommender = load_release(parent)
        if self._method.root == PLAIN and isinstance(recommender.config, EnsembleConfig):
            # LETHE_METHOD has changed. Retraining makes the kind of release that the method needs.
            raise UnlearningFailedError
        task = UnlearningTask(
            recommender=recommender,
            prepared=split,
            expected=expected_loss_increases(manifest),
            memorization=memorization(manifest),
            recipe=recipe,
            seed=self._settings.seed,
            strength=strength,
        )
        try:
            unlearned = self._method.unlearn(task, report)
        except DivergedError as error:
            raise UnlearningFailedError from error
        except _BACKBONE_ERRORS as error:
            raise InvalidInputError(str(error)) from error
        method, job_id = self._method.name, snapshot.job_id
        record = TrainingRecord.from_manifest(manifest.extra)
        changed = record.after_unlearning(snapshot, split).manifest() if record else {}
        if recommender.config.adapter is not None:
            # The new adapter replaces the parent's adapter and is a complete release.
            artifact = save_successor(
                unlearned.recommender,
                into,
                manifest,
                method=method,
                job_id=job_id,
                record=changed,
            )
            artifact = replace(artifact, needs_merge=False)
        else:
            artifact = save_unmerged(
                unlearned,
                into,
                manifest,
                method=method,
                job_id=job_id,
                split=split,
                record=changed,
            )
        return replace(artifact, metrics=unlearned.metrics)

    def _unlearn_exactly(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        into: Path,
        recipe: TrainConfig,
        report: Progress,
    ) -> Artifact:
        """Save what a training on the retained rows gives, with new time bounds and vocabulary.

        Nothing is inherited that was chosen with the batch's rows: an ensemble keeps those members
        of the parent that such a training would give again, bit for bit. Raises
        UnlearningFailedError as `unlearn` does.
        """
        if self._method.root == PLAIN:
            return replace(
                self.train(snapshot, into, parent, report), exact=True, needs_merge=False
            )
        try:
            split = split_snapshot(snapshot, None, recipe.limits)
            task = UnlearningTask(
                recommender=load_release(parent),
                prepared=split,
                expected={},
                memorization={},
                recipe=recipe,
                seed=self._settings.seed,
            )
            unlearned = self._method.unlearn(task, report)
        except (TooSmallToSplitError, NothingToForgetError, DivergedError) as error:
            # New bounds can leave the batch no training row, although the parent saw one.
            raise UnlearningFailedError from error
        except _BACKBONE_ERRORS as error:
            raise InvalidInputError(str(error)) from error
        artifact = save_root(
            unlearned.recommender,
            into,
            method=self._method.name,
            snapshot=snapshot,
            split=split,
            recipe=recipe,
            calibration=None,
        )
        metrics = {**unlearned.metrics, "seed": recipe.seed}
        return replace(artifact, exact=True, needs_merge=False, metrics=metrics)

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        """Merge the adapter, and reset the rows of tokens that no retained sample contains.

        A method without an adapter leaves complete weights, which need the reset only.
        """
        manifest = manifests.read_manifest(parent)
        unmerged = manifests.read_manifest(adapter)
        if unmerged.content["kind"] == manifests.UNMERGED and unmerged.parent == manifest.digest:
            merged = load_release(adapter, manifests.UNMERGED)
        else:
            merged = adapters.merge(load_release(parent), manifest.digest, adapter)
        reset_rows(merged, unmerged.extra["reset_tokens"])
        return save_successor(
            merged,
            into,
            manifest,
            method=unmerged.method,
            job_id=unmerged.extra["job"],
            record=unmerged.extra.get("record", {}),
        )

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        """Save the parent's weights under a new manifest: they do not depend on this batch."""
        manifest = manifests.read_manifest(parent)
        return save_successor(
            load_release(parent), into, manifest, method="carry-over", job_id=job_id
        )

    def must_retrain(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Return whether the record cannot tell what the parent knows of the batch.

        Rows that only selected the checkpoint count too: no method unlearns a selection.
        """
        manifest = manifests.read_manifest(parent)
        record = TrainingRecord.from_manifest(manifest.extra)
        if any(are_unknown(snapshot, record, [snapshot.forget])):
            return True
        if has_learned_weights(backbone_from_manifest(manifest.content["backbone"])):
            # The methods of such ensembles compute the weights again from the retained rows.
            return False
        split = split_like(snapshot, manifest)
        return bool(
            selects_on_validation(manifest) and split.forget_valid and not len(split.forget)
        )

    def unmeasured_kinds(self, snapshot: DataSnapshot, parent: Path) -> tuple[str, ...]:
        """Compare the kinds of the batch's rows with what the manifest's calibration shows."""
        manifest = manifests.read_manifest(parent)
        if self._method.exact or not self._method.calibrated:
            return ()
        fitted = memorization(manifest)
        present = np.unique(split_like(snapshot, manifest).forget_kind).tolist()
        kinds = [KINDS[index] for index in present]
        return tuple(kind for kind in kinds if kind not in fitted or not fitted[kind].helps)

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Return whether the batch has a training row of the parent.

        Validation rows count too if the parent is an ensemble that learned weights from them.
        """
        manifest = manifests.read_manifest(parent)
        split = split_like(snapshot, manifest)
        if split.forget_valid and has_learned_weights(
            backbone_from_manifest(manifest.content["backbone"])
        ):
            return True
        return len(split.forget) > 0

    def count_known_rows(self, snapshot: DataSnapshot, parent: Path) -> dict[str, int | None]:
        """Count by the record of training in the parent's manifest."""
        record = TrainingRecord.from_manifest(manifests.read_manifest(parent).extra)
        return count_known_rows(snapshot, record)

    def audit(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        """Compare the candidate's weights, as they will be served, with the parent's weights."""
        manifest = manifests.read_manifest(parent)
        old = load_release(parent)
        try:
            new = load_release(candidate)
        except ReleaseUnusableError:
            if not exact:
                raise
            # Broken weights give no number as an answer to the golden prompts.
            return Verdict(outcome=Outcome.FAILED, figures={"quality": UNUSABLE.figures()})
        report(0.1)
        known = split_like(snapshot, manifest)
        groups = forget_rows_by_request(snapshot, known)
        if exact:
            # Retraining chooses new time bounds, and may make another kind of model.
            made = manifests.read_manifest(candidate)
            result = audit_exact(
                old,
                new,
                split_like(snapshot, made),
                known=known,
                groups=groups,
                is_trained=made.method != UNTRAINED_METHOD,
            )
        else:
            result = audit(old, new, known, person_calibration(manifest), groups=groups)
        report(1.0)
        outcome, figures = release_verdict(result)
        measured = judged_requests(result, groups, known.forget.user)
        return Verdict(
            outcome=outcome,
            figures=figures,
            by_request=figures_by_request(snapshot, known, manifest, measured),
            forgotten_rows=len(known.forget),
            drift=None
            if exact
            else measure_drift(snapshot, manifest, result.losses, self._settings.drift_loss),
        )

    def _method_for(self, recipe: TrainConfig) -> UnlearningMethod:
        """Return the method, or exact retraining if the method needs more than one adapter."""
        if recipe.backbone.adapter is not None and self._method.root != PLAIN:
            return get_method(EXACT_METHOD)
        return self._method

    def _recipe(self, backbone: str | Path, seed: int | None = None) -> TrainConfig:
        """Return the recipe for a backbone's name, or the recipe of the release in a directory.

        Raises InvalidInputError for an unknown backbone.
        """
        try:
            if isinstance(backbone, str):
                recipe = self._limited(self._recipes(parse_backbone(backbone)))
            else:
                recipe = recipe_of(manifests.read_manifest(backbone).extra["recipe"])
        except UnknownBackboneError as error:
            raise InvalidInputError(str(error)) from error
        return recipe.seeded(self._settings.seed if seed is None else seed)

    def _limited(self, recipe: TrainConfig) -> TrainConfig:
        """Return the recipe with the limits of rows in the settings, where they are set."""
        limits = RowLimits(
            train=self._settings.train_rows or recipe.limits.train,
            evaluation=self._settings.evaluation_rows or recipe.limits.evaluation,
        )
        return replace(recipe, limits=limits)


def _save_untrained(snapshot: DataSnapshot, into: Path, recipe: TrainConfig) -> Artifact:
    """Save initial weights, with time bounds that make no row a training row."""
    split = split_snapshot(snapshot, TimeSplit(valid_from=0, test_from=1))
    recommender = build(Vocabulary.from_catalog(split.catalog()), recipe.backbone)
    return save_root(
        recommender,
        into,
        method=UNTRAINED_METHOD,
        snapshot=snapshot,
        split=split,
        recipe=recipe,
        calibration=None,
    )
