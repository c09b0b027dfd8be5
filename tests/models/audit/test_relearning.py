"""Test relearning: number of steps, reproducibility, censoring, and unchanged inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.audit.relearning import RelearnConfig, relearn_steps
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.metrics import log_losses
from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender
from models.training.trainer import margins
from tests.support.planted_tastes import FORGOTTEN, HOLDOUT, RECIPE, planted

CONFIG = RelearnConfig(
    learning_rate=5e-3, batch_size=32, evaluate_every=2, evaluation_rows=200, cap=40
)
Rows = tuple[Recommender, PromptBatch, np.ndarray]


@pytest.fixture(scope="module")
def rows() -> Rows:
    data = planted()
    batch = split_for_forgetting(data, ForgetIndices(users=FORGOTTEN), HOLDOUT)
    recommender = Recommender(Vocabulary.from_catalog(data), RECIPE.backbone)
    recommender.model.requires_grad_(requires_grad=False)
    return recommender, recommender.prompt.samples(batch.forget, data), batch.forget.label


def test_a_lower_target_takes_more_steps(rows: Rows) -> None:
    recommender, prompts, labels = rows
    before = {name: value.clone() for name, value in recommender.model.state_dict().items()}
    near, far = (
        relearn_steps(recommender, prompts, labels, target, CONFIG, 0) for target in (0.8, 0.7)
    )
    assert 0 < near.steps < far.steps <= CONFIG.cap
    assert far.after <= far.target < far.before
    assert far.steps % CONFIG.evaluate_every == 0
    assert relearn_steps(recommender, prompts, labels, 0.7, CONFIG, 0) == far
    assert not any(p.requires_grad for p in recommender.model.parameters())
    for name, value in recommender.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_target_above_the_loss_takes_no_step(rows: Rows) -> None:
    recommender, prompts, labels = rows
    row_margins = margins(recommender, prompts).numpy()
    target = log_losses(labels, row_margins) + 1e-4
    # With a target per row, the target is that of the evaluation rows.
    config = replace(CONFIG, evaluation_rows=20)
    assert relearn_steps(recommender, prompts, labels, target, config, 0).steps == 0


def test_a_target_that_is_not_reached_is_censored(rows: Rows) -> None:
    relearned = relearn_steps(*rows, 0.0, replace(CONFIG, cap=3), 0)
    assert (relearned.steps, relearned.censored) == (4, True)
