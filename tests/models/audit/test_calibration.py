"""Test the expected loss increases, and that a shadow model that failed gives no calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.audit.calibration import (
    ShadowFailedError,
    calibrate,
    expected_loss_increases,
    shadow_rows,
)
from models.audit.evidence import Answers
from models.data.forget_split import ForgetIndices, ForgetSplit, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.training.step import DivergedError
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.recommender.base import Recommender


def untrained() -> Recommender:
    return build(Vocabulary.from_catalog(planted()), RECIPE.backbone)


def diverged(_rows: ForgetSplit) -> Recommender:
    raise DivergedError(DivergedError.__doc__)


def without_numbers(_rows: ForgetSplit) -> Recommender:
    shadow = untrained()
    with torch.no_grad():
        for parameter in shadow.model.parameters():
            parameter.fill_(math.nan)
    return shadow


@pytest.mark.parametrize("train", [diverged, without_numbers])
def test_a_failed_shadow_gives_no_calibration(
    train: Callable[[ForgetSplit], Recommender],
) -> None:
    data = planted()
    whole = split_for_forgetting(data, ForgetIndices(), frozenset())
    with pytest.raises(ShadowFailedError):
        calibrate(data, untrained(), whole, frozenset(), CALIBRATION, train)


def test_a_release_without_numbers_gives_no_calibration() -> None:
    """The job goes on, and the quality of a renewal is judged: broken weights never serve."""
    data = planted()
    whole = split_for_forgetting(data, ForgetIndices(), frozenset())
    broken = without_numbers(whole)
    with pytest.raises(ShadowFailedError):
        calibrate(data, broken, whole, frozenset(), CALIBRATION, lambda _rows: untrained())


def test_the_error_of_the_expected_loss_increase_is_that_of_a_mean_over_rows_by_person() -> None:
    """A person with most of the rows decides on the mean, and so on its error."""
    data = planted()
    whole = split_for_forgetting(data, ForgetIndices(), frozenset())
    shadow_data = shadow_rows(data, whole, frozenset(), CALIBRATION)
    people = np.unique(shadow_data.forget.user)
    of_first = np.flatnonzero(shadow_data.forget.user == people[0])
    of_others = np.flatnonzero(shadow_data.forget.user != people[0])
    kept = np.r_[np.repeat(of_first, 100), of_others]
    shadow_data = replace(
        shadow_data,
        forget=shadow_data.forget.take(kept),
        forget_kind=shadow_data.forget_kind[kept],
    )
    users = shadow_data.forget.user
    # The margins are those of losses of 0.1 and 0.2, after a loss of log 2.
    losses = np.where(users == people[0], 0.1, 0.2)
    answers = Answers(
        users=users,
        labels=np.ones(len(users)),
        kinds=shadow_data.forget_kind,
        old=np.zeros(len(users)),
        new=-np.log(np.expm1(losses)),
    )
    no_holdout = answers.take(np.zeros(len(users), bool))
    increase = expected_loss_increases(shadow_data, answers, no_holdout)["user"]
    mean = losses.mean()
    sums = [(losses[users == person] - mean).sum() for person in people]
    count = len(people)
    assert increase.mean == pytest.approx(mean - np.log(2))
    assert increase.error == pytest.approx(
        np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(users)
    )
