"""The learner that the pipeline works with: `models` behind the Learner protocol.

Turns frozen data into indices and releases into directories. Knows nothing of leases or rows.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from models import adapters, checkpoints, manifests
from models.assembly import backbone_from_manifest, build
from models.audit.report import audit, audit_exact
from models.audit.utility import item_mean_margins, user_item_bias_margins, utility
from models.ensembles import EnsembleConfig
from models.item_rows import reset_rows, unused_tokens
from models.preparation import ForgetIndices, Prepared, prepare
from models.splits import TimeSplit, TooSmallToSplitError
from models.training import (
    CalibrationConfig,
    DivergedError,
    ExpectedRise,
    TrainConfig,
    calibrate,
    margins,
)
from models.unlearning.base import PLAIN, UnlearningTask
from models.unlearning.ensemble import weighed
from models.unlearning.registry import UnknownMethodError, get_method
from models.vocabulary import Vocabulary
from worker.errors import UnlearningFailedError
from worker.learner import EXACT_METHOD, UNTRAINED_METHOD, Artefact, ForgetSet, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from app.settings import Settings
    from models.manifests import Manifest
    from models.recommender import Recommender
    from models.samples import Samples
    from models.unlearning.base import Unlearned
    from worker.learner import FrozenData, Report


class ModelLearner:
    """Trains, unlearns, folds and audits on this machine, seeded throughout."""

    def __init__(self, settings: Settings) -> None:
        """Take the recipe from the settings; an unknown method is refused at once."""
        try:
            self._method = get_method(settings.method)
        except UnknownMethodError as error:
            raise InvalidInputError(f"LETHE_METHOD: {error}") from error
        self._recipe = TrainConfig().seeded(settings.seed)
        self._calibration = CalibrationConfig(seed=settings.seed + 1)

    def train(self, frozen: FrozenData, into: Path, report: Report) -> Artefact:
        """Train on the retained rows, measure against the baselines, calibrate, and save.

        Where deletions have left too little to train on, the exact result is a model that was
        trained on nobody. Raises InvalidInputError where nothing was to be forgotten.
        """
        try:
            prepared = prepare_frozen(frozen, None)
        except TooSmallToSplitError as error:
            if frozen.forget == ForgetSet():
                raise InvalidInputError(str(error)) from error
            return self._untrained(frozen, into)
        vocabulary = Vocabulary.from_catalogue(prepared.retained)
        started = time.monotonic()
        recommender = self._method.train(
            vocabulary, prepared, self._recipe, lambda fraction: report(fraction * 0.5)
        )
        fitted = time.monotonic()
        expected = calibrate(
            prepared.retained,
            recommender,
            prepared,
            _cohort(frozen),
            self._calibration,
            lambda rows: self._method.train(
                vocabulary, rows, self._recipe, lambda fraction: report(0.5 + fraction * 0.5)
            ),
        )
        metrics = {
            **_qualities(recommender, prepared),
            "rows": {
                "train": len(prepared.parts.train),
                "valid": len(prepared.parts.valid),
                "test": len(prepared.parts.test),
                "cohort": len(prepared.parts.cohort),
            },
            "expected_rise": {kind: asdict(rise) for kind, rise in expected.items()},
            "parameters": sum(p.numel() for p in recommender.model.parameters()),
            "fit_seconds": fitted - started,
            "calibration_seconds": time.monotonic() - fitted,
        }
        rises = metrics["expected_rise"]
        manifest = self._save_root(recommender, prepared, into, EXACT_METHOD, frozen, rises)
        return Artefact(
            directory=into, digest=manifest.digest, method=manifest.method, metrics=metrics
        )

    def _untrained(self, frozen: FrozenData, into: Path) -> Artefact:
        """Save the initial weights: nobody's, and no row counts as one they were trained on."""
        bounds = TimeSplit(valid_from=0, test_from=1)
        prepared = _prepare(frozen, bounds)
        vocabulary = Vocabulary.from_catalogue(prepared.retained)
        recommender = build(vocabulary, self._recipe.backbone)
        manifest = self._save_root(recommender, prepared, into, UNTRAINED_METHOD, frozen, {})
        return Artefact(directory=into, digest=manifest.digest, method=manifest.method)

    def _save_root(
        self,
        recommender: Recommender,
        prepared: Prepared,
        into: Path,
        method: str,
        frozen: FrozenData,
        expected: dict[str, Any],
    ) -> Manifest:
        """Save a release without a parent: the root of a lineage, which later ones inherit from."""
        return checkpoints.save(
            recommender,
            into,
            method=method,
            extra={
                "job": frozen.job_id,
                "bounds": prepared.bounds.manifest(),
                "expected": expected,
                "recipe": self._recipe.manifest(),
                "data_sha256": _data_hash(prepared),
            },
        )

    def unlearn(
        self, frozen: FrozenData, parent: Path, into: Path, *, strength: int, report: Report
    ) -> Artefact:
        """Train the adapter that forgets; `into` gets the delta, which must be shredded."""
        manifest = manifests.read_manifest(parent)
        prepared = prepare_frozen(frozen, manifest)
        if not len(prepared.parts.train):
            # Nobody is left to remember: only the exact way is open.
            raise UnlearningFailedError
        recommender = checkpoints.load(parent)
        if self._method.root == PLAIN and isinstance(recommender.config, EnsembleConfig):
            # The method was switched: the exact way trains the kind of release that it needs.
            raise UnlearningFailedError
        task = UnlearningTask(
            recommender=recommender,
            prepared=prepared,
            expected=_expected(manifest),
            recipe=self._recipe,
            seed=self._recipe.seed,
            strength=strength,
        )
        try:
            result = self._method.unlearn(task, report)
        except DivergedError as error:
            raise UnlearningFailedError from error
        saved = self._save_unfolded(result, into, manifest.digest, frozen, prepared)
        return Artefact(
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

    def _save_unfolded(
        self, result: Unlearned, into: Path, parent: str, frozen: FrozenData, prepared: Prepared
    ) -> Manifest:
        """Save what the method left: an adapter still to be folded, or weights of their own."""
        name, model = self._method.name, result.recommender
        extra = {"job": frozen.job_id, "reset_tokens": unused_tokens(model, prepared)}
        if result.adapter is None:
            return checkpoints.save(
                model, into, method=name, parent=parent, extra=extra, kind=manifests.UNFOLDED
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

    def fold(self, parent: Path, adapter: Path, into: Path) -> Artefact:
        """Fold the delta into its parent; rows that no retained sample has become initial again.

        Weights of their own, which a method without an adapter leaves, need only the latter.
        """
        before = manifests.read_manifest(parent)
        delta = manifests.read_manifest(adapter)
        if delta.content["kind"] == manifests.UNFOLDED and delta.parent == before.digest:
            folded = checkpoints.load(adapter, manifests.UNFOLDED)
        else:
            folded = adapters.fold(checkpoints.load(parent), before.digest, adapter)
        reset_rows(folded, delta.extra["reset_tokens"])
        return self._next_release(folded, before, into, delta.method, delta.extra["job"])

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artefact:
        """Save the parent's weights under a new manifest: no weight ever saw this batch."""
        before = manifests.read_manifest(parent)
        return self._next_release(checkpoints.load(parent), before, into, "carry-over", job_id)

    def has_training_rows(self, frozen: FrozenData, parent: Path) -> bool:
        """Say whether any sample that the parent's weights know contains what is forgotten."""
        manifest = manifests.read_manifest(parent)
        prepared = prepare_frozen(frozen, manifest)
        if prepared.forget_valid and weighed(backbone_from_manifest(manifest.content["backbone"])):
            return True
        return len(prepared.forget) > 0

    def audit(
        self, frozen: FrozenData, parent: Path, candidate: Path, *, exact: bool, report: Report
    ) -> Verdict:
        """Compare the folded weights, as they will be served, with their parent's."""
        manifest = manifests.read_manifest(parent)
        old, new = checkpoints.load(parent), checkpoints.load(candidate)
        report(0.1)
        prepared = prepare_frozen(frozen, manifest)
        if exact:
            found = audit_exact(old, new, prepared)
        else:
            found = audit(old, new, prepared, _expected(manifest))
        report(1.0)
        return Verdict(outcome=Outcome(found.outcome), figures=found.figures)

    def _next_release(
        self, recommender: Recommender, before: Manifest, into: Path, method: str, job_id: str
    ) -> Artefact:
        """Save a release that inherits its parent's bounds, recipe and calibration."""
        inherited = {k: v for k, v in before.extra.items() if k != "data_sha256"}
        manifest = checkpoints.save(
            recommender,
            into,
            method=method,
            parent=before.digest,
            extra={**inherited, "job": job_id},
        )
        return Artefact(directory=into, digest=manifest.digest, method=method)


def prepare_frozen(frozen: FrozenData, parent: Manifest | None) -> Prepared:
    """Split by the parent's bounds, or by new ones where there is no parent to keep to."""
    return _prepare(frozen, None if parent is None else TimeSplit(**parent.extra["bounds"]))


def _prepare(frozen: FrozenData, bounds: TimeSplit | None) -> Prepared:
    users = {user.id: index for index, user in enumerate(frozen.data.users)}
    items = {item.id: index for index, item in enumerate(frozen.data.items)}
    forget = frozen.forget
    return prepare(
        frozen.data,
        ForgetIndices(
            users=frozenset(users[user] for user in forget.users if user in users),
            items=frozenset(items[item] for item in forget.items if item in items),
            pairs=frozenset(
                (users[user], items[item])
                for user, item in forget.pairs
                if user in users and item in items
            ),
        ),
        _cohort(frozen),
        bounds,
    )


def _cohort(frozen: FrozenData) -> frozenset[int]:
    return frozenset(
        index for index, user in enumerate(frozen.data.users) if user.id in frozen.cohort
    )


def _expected(manifest: Manifest) -> dict[str, ExpectedRise]:
    return {kind: ExpectedRise(**rise) for kind, rise in manifest.extra["expected"].items()}


def _data_hash(prepared: Prepared) -> str:
    """Return a SHA-256 over the retained rows in their canonical order."""
    data = prepared.retained
    order = data.sorted_rows()
    columns = (data.user, data.item, data.rating, data.timestamp)
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.hexdigest()


def _qualities(recommender: Recommender, prepared: Prepared) -> dict[str, Any]:
    """Measure the model on validation and test, and both baselines on the same test rows."""
    data, parts = prepared.retained, prepared.parts

    def of_model(samples: Samples) -> dict[str, float]:
        prompts = recommender.prompt.samples(samples, data)
        return utility(samples.label, margins(recommender, prompts).numpy())

    test = parts.test
    bias = user_item_bias_margins(parts.train, test, data, prepared.bounds.valid_from)
    return {
        "validation": of_model(parts.valid),
        "test": {
            "model": of_model(test),
            "item_mean": utility(test.label, item_mean_margins(parts.train, test, len(data.items))),
            "user_item_bias": utility(test.label, bias),
        },
    }
