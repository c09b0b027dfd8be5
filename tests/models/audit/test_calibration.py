"""Test that a shadow model that failed gives no calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from models.audit.calibration import ShadowFailedError, calibrate
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
