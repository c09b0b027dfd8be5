"""Renew real models: another seed, too few rows, and weights that are not numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.unlearning.sisa import Sisa, SisaConfig
from tests.worker.test_exact_retraining import make_learner, nothing, snapshot, world
from worker.learner import UNTRAINED_METHOD, ForgetSet
from worker.release_files import load_release

if TYPE_CHECKING:
    from pathlib import Path

    from models.unlearning.base import UnlearningMethod

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", [None, Sisa(SisaConfig(passes=1))], ids=["compact", "ensemble"])
def test_seed_of_a_renewal_makes_other_weights(
    method: UnlearningMethod | None, tmp_path: Path
) -> None:
    data, learner = snapshot(world(), ForgetSet()), make_learner(method)
    parent = learner.train(data, tmp_path / "p", "compact", nothing)
    same, other = (
        learner.train(data, tmp_path / str(seed), parent.directory, nothing, renewal_seed=seed)
        for seed in (0, 1)
    )
    assert same.digest == parent.digest != other.digest
    assert (same.metrics["seed"], other.metrics["seed"]) == (0, 1)
    verdict = learner.audit(data, parent.directory, other.directory, exact=True, report=nothing)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.figures["quality"]["outcome"] in {"passed", "not_judged", "failed"}


def test_renewal_with_too_few_rows_gives_initial_weights(tmp_path: Path) -> None:
    learner = make_learner()
    parent = learner.train(snapshot(world(), ForgetSet()), tmp_path / "p", "compact", nothing)
    data = world()
    few = snapshot(data.take(data.user < 2), ForgetSet())
    with pytest.raises(InvalidInputError):
        learner.train(few, tmp_path / "t", parent.directory, nothing)
    renewed = learner.train(few, tmp_path / "r", parent.directory, nothing, renewal_seed=0)
    assert renewed.method == UNTRAINED_METHOD
    verdict = learner.audit(few, parent.directory, renewed.directory, exact=True, report=nothing)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.figures["quality"]["outcome"] == "not_judged"


def test_weights_that_are_not_numbers_fail(tmp_path: Path) -> None:
    data, learner = snapshot(world(), ForgetSet()), make_learner()
    parent = learner.train(data, tmp_path / "p", "compact", nothing)
    manifest = manifests.read_manifest(parent.directory)
    recommender = load_release(parent.directory)
    weights = next(recommender.model.parameters())
    weights.data[-1] = np.nan
    checkpoints.save(recommender, tmp_path / "b", method="retrain", extra=dict(manifest.extra))
    verdict = learner.audit(data, parent.directory, tmp_path / "b", exact=True, report=nothing)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.figures["quality"]["outcome"] == "failed"
