"""Save and load the weights of releases, with the manifest entries that later jobs need."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from models.audit.calibration import Calibration, ExpectedLossIncrease
from models.audit.memorization import Memorization
from models.audit.person_calibration import PersonCalibration
from models.checkpoints import adapter as adapters
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.recommender.token_rows import unused_tokens
from worker.drift import EVALUATION, evaluation_figures
from worker.errors import ReleaseUnusableError
from worker.learner import Artifact
from worker.training_data import data_hash
from worker.training_record import TrainingRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.checkpoints.manifest import Manifest
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.training.trainer import TrainConfig
    from models.unlearning.base import Unlearned
    from worker.learner import DataSnapshot

#: The manifest's entry with the calibration of the audit of persons.
PERSONS: Final = "persons"
#: The manifest's entry with what leaving rows out changes, by kind of row.
MEMORIZATION: Final = "memorization"


def save_root(
    recommender: Recommender,
    into: Path,
    *,
    method: str,
    snapshot: DataSnapshot,
    split: ForgetSplit,
    recipe: TrainConfig,
    calibration: Calibration | None,
) -> Artifact:
    """Save a release without a parent, whose entries all its successors inherit.

    The record of training states which rows the weights of the whole lineage can know. The figures
    of the evaluation rows are those by which the drift of later releases is measured. Releases
    whose unlearning is always exact have no calibration.
    """
    expected = {} if calibration is None else calibration.expected
    fitted = {} if calibration is None else calibration.memorization
    evaluation = evaluation_figures(recommender, split)
    manifest = checkpoints.save(
        recommender,
        into,
        method=method,
        extra={
            "job": snapshot.job_id,
            "bounds": split.bounds.manifest(),
            "expected": {kind: asdict(increase) for kind, increase in expected.items()},
            MEMORIZATION: {kind: asdict(values) for kind, values in fitted.items()},
            PERSONS: None if calibration is None else calibration.persons.values(),
            "recipe": recipe.manifest(),
            "data_sha256": data_hash(split),
            EVALUATION: evaluation,
            **({"drawn_times": snapshot.drawn_times} if snapshot.drawn_times else {}),
            **TrainingRecord.of(snapshot).manifest(),
        },
    )
    return Artifact(
        directory=into,
        digest=manifest.digest,
        method=method,
        training_rows=len(split.parts.train),
        evaluation=evaluation,
    )


def save_successor(
    recommender: Recommender,
    into: Path,
    parent: Manifest,
    *,
    method: str,
    job_id: str,
    record: Mapping[str, Any] = MappingProxyType({}),
) -> Artifact:
    """Save a release that inherits its parent's bounds, recipe, calibration and training record.

    `record` has the entries of the training record that unlearning changed.
    """
    inherited = {name: value for name, value in parent.extra.items() if name != "data_sha256"}
    manifest = checkpoints.save(
        recommender,
        into,
        method=method,
        parent=parent.digest,
        extra={**inherited, **record, "job": job_id},
    )
    return Artifact(directory=into, digest=manifest.digest, method=method)


def save_unmerged(
    unlearned: Unlearned,
    into: Path,
    parent: Manifest,
    *,
    method: str,
    job_id: str,
    split: ForgetSplit,
    record: Mapping[str, Any],
) -> Artifact:
    """Save the result of a method: an adapter to merge, or complete weights.

    The files can undo the unlearning, so all of them are listed as intermediates to shred.
    """
    recommender = unlearned.recommender
    tokens = unused_tokens(recommender, split)
    extra = {"job": job_id, "reset_tokens": tokens, "record": dict(record)}
    if unlearned.adapter is None:
        manifest = checkpoints.save(
            recommender,
            into,
            method=method,
            parent=parent.digest,
            extra=extra,
            kind=manifests.UNMERGED,
        )
    else:
        manifest = adapters.save(
            recommender,
            into,
            unlearned.adapter,
            method=method,
            parent=parent.digest,
            extra=extra,
            rows=unlearned.rows,
        )
    return Artifact(
        directory=into,
        digest=manifest.digest,
        method=method,
        intermediates={
            name: manifests.sha256_file(into / name)
            for name in (manifests.WEIGHTS, manifests.MANIFEST)
        },
    )


def load_release(directory: Path, kind: str = manifests.RELEASE) -> Recommender:
    """Load weights. Raises ReleaseUnusableError, whose message holds no personal data."""
    try:
        return checkpoints.load(directory, kind)
    except manifests.CheckpointError as error:
        raise ReleaseUnusableError(reason=str(error).rstrip(".")) from error


def expected_loss_increases(release: Manifest) -> dict[str, ExpectedLossIncrease]:
    """Return the release's calibration, by kind of forgotten sample."""
    return {
        kind: ExpectedLossIncrease(**values) for kind, values in release.extra["expected"].items()
    }


def memorization(release: Manifest) -> dict[str, Memorization]:
    """Return what leaving rows out changes, by kind; empty for releases of other versions."""
    try:
        return {
            kind: Memorization(**values)
            for kind, values in (release.extra.get(MEMORIZATION) or {}).items()
        }
    except (AttributeError, TypeError):
        # Fields of another version: the next batch is trained exactly, as without a calibration.
        return {}


def person_calibration(release: Manifest) -> PersonCalibration | None:
    """Return the calibration of the audit of persons; None for releases of earlier versions."""
    return PersonCalibration.from_values(release.extra.get(PERSONS))
