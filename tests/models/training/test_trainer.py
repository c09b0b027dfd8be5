"""Test training: quality on planted tastes, reproducibility, interruption and divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.audit.calibration import CalibrationConfig, shadow_rows
from models.backbones.compact import CompactConfig
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.metrics import item_mean_margins, utility
from models.training.step import DivergedError
from models.training.trainer import TrainConfig, fit, margins, row_losses

if TYPE_CHECKING:
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender

#: One short epoch of a tiny backbone, for tests of the loop rather than of the result.
SHORT = TrainConfig(
    backbone=CompactConfig(hidden_size=8, layers=1, heads=1, intermediate_size=8),
    batch_size=128,
    warmup_steps=5,
)


class StopError(Exception):
    """Raised by a progress callback to interrupt."""


def ignore(fraction: float) -> None:
    """Ignore the progress."""


def weights(recommender: Recommender) -> dict[str, torch.Tensor]:
    return recommender.model.state_dict()


def equal(first: Recommender, second: Recommender) -> bool:
    return all(
        torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items()
    )


@pytest.fixture(scope="module")
def short(vocabulary: Vocabulary, prepared: ForgetSplit) -> Recommender:
    return fit(vocabulary, prepared, SHORT, ignore)


def test_the_model_beats_the_item_mean(
    trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    test = prepared.parts.test
    test_margins = margins(trained, trained.prompt.samples(test, planted)).numpy()

    model = utility(test.label, test_margins)
    baseline = utility(test.label, item_mean_margins(prepared.parts.train, test, 150))

    assert model["auc"] > baseline["auc"] + 0.02
    assert model["log_loss"] < baseline["log_loss"] - 0.02


def test_row_losses_match_the_answers_probabilities(
    trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    test = prepared.parts.test
    probability = trained.logits(trained.prompt.samples(test, planted)).double().softmax(1)[:, 0]
    expected = -np.log(np.where(test.label > 0, probability, 1 - probability))

    losses = row_losses(trained, test, planted)

    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_no_rows_have_no_losses(
    trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    assert len(prepared.forget) == 0
    assert row_losses(trained, prepared.forget, planted).shape == (0,)


def test_the_same_seed_gives_the_same_weights(
    vocabulary: Vocabulary, prepared: ForgetSplit, short: Recommender
) -> None:
    torch.manual_seed(99)  # Other random draws must not matter.

    again = fit(vocabulary, prepared, SHORT, ignore)

    assert equal(again, short)


def test_another_seed_gives_other_weights(
    vocabulary: Vocabulary, prepared: ForgetSplit, short: Recommender
) -> None:
    other_order = fit(vocabulary, prepared, replace(SHORT, seed=1), ignore)
    other_start = fit(
        vocabulary, prepared, replace(SHORT, backbone=replace(SHORT.backbone, seed=1)), ignore
    )

    assert not equal(other_order, short)
    assert not equal(other_start, short)


def test_training_leaves_the_global_random_state_alone(
    vocabulary: Vocabulary, prepared: ForgetSplit
) -> None:
    before = torch.get_rng_state()

    fit(vocabulary, prepared, SHORT, ignore)

    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_depend_on_retained_training_rows_alone(
    planted: Interactions,
    holdout: frozenset[int],
    vocabulary: Vocabulary,
    prepared: ForgetSplit,
) -> None:
    """Retraining without a user equals, bit for bit, training on data that never had the user."""
    gone = split_for_forgetting(
        planted, ForgetIndices(users=frozenset({1})), holdout, prepared.bounds
    )
    never = split_for_forgetting(
        planted.take(planted.user != 1), ForgetIndices(), holdout, prepared.bounds
    )

    assert len(gone.forget) > 0
    assert equal(fit(vocabulary, gone, SHORT, ignore), fit(vocabulary, never, SHORT, ignore))


def test_test_and_holdout_labels_do_not_affect_training(
    vocabulary: Vocabulary, prepared: ForgetSplit, short: Recommender
) -> None:
    parts = prepared.parts
    changed = replace(
        prepared,
        parts=replace(
            parts,
            test=replace(parts.test, label=1 - parts.test.label),
            holdout=replace(parts.holdout, label=1 - parts.holdout.label),
        ),
    )

    assert equal(fit(vocabulary, changed, SHORT, ignore), short)


def test_the_state_with_the_lowest_validation_loss_is_returned(
    vocabulary: Vocabulary, prepared: ForgetSplit, planted: Interactions
) -> None:
    """With reversed validation labels, every later state is worse than the first."""
    parts = prepared.parts
    reversed_labels = replace(
        prepared,
        parts=replace(parts, valid=replace(parts.valid, label=1 - parts.valid.label)),
    )
    config = replace(SHORT, learning_rate=2e-2, epochs=2)

    stopped = fit(vocabulary, reversed_labels, config, ignore)
    whole = fit(vocabulary, prepared, config, ignore)

    train = parts.train.take(np.arange(500))
    losses = [row_losses(model, train, planted).mean() for model in (stopped, whole)]
    assert losses[0] > losses[1] + 0.01


def test_a_trained_model_is_in_evaluation_mode(short: Recommender) -> None:
    assert not short.model.training


def test_progress_increases_toward_one(vocabulary: Vocabulary, prepared: ForgetSplit) -> None:
    seen: list[float] = []

    fit(vocabulary, prepared, SHORT, seen.append)

    assert len(seen) >= 2
    assert seen == sorted(set(seen))
    assert all(0 < fraction <= 1 for fraction in seen)


def test_the_progress_callback_can_interrupt(vocabulary: Vocabulary, prepared: ForgetSplit) -> None:
    calls: list[float] = []

    def stop(fraction: float) -> None:
        calls.append(fraction)
        raise StopError

    with pytest.raises(StopError):
        fit(vocabulary, prepared, SHORT, stop)
    assert len(calls) == 1


@pytest.mark.parametrize("rate", [1e30, float("inf")])
def test_a_diverged_loss_is_an_error(
    vocabulary: Vocabulary, prepared: ForgetSplit, rate: float
) -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        fit(vocabulary, prepared, replace(SHORT, learning_rate=rate), ignore)


def test_a_last_step_that_diverged_is_an_error(
    vocabulary: Vocabulary, prepared: ForgetSplit
) -> None:
    """With a single step there is no later training loss; validation detects the divergence."""
    one_step = replace(SHORT, batch_size=len(prepared.parts.train), learning_rate=float("inf"))

    with pytest.raises(DivergedError):
        fit(vocabulary, prepared, one_step, ignore)


@pytest.mark.parametrize("users", [2, 3, 9])
def test_a_shadow_of_few_users_keeps_half_of_them(
    planted: Interactions, prepared: ForgetSplit, users: int
) -> None:
    data = planted.take(planted.user < users)
    whole = split_for_forgetting(data, ForgetIndices(), frozenset(), prepared.bounds)
    shadow_data = shadow_rows(data, whole, frozenset(), CalibrationConfig(items=0, pairs=0))
    assert len(shadow_data.forget)
    assert len(np.unique(shadow_data.parts.train.user)) >= users // 2


def test_the_manifest_of_a_recipe_is_json() -> None:
    manifest = SHORT.manifest()

    assert manifest["backbone"] == SHORT.backbone.manifest()
    assert manifest["batch_size"] == 128
