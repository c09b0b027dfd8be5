"""Measures what leaving someone out changes: how far the loss of rows that a model never saw rises.

Knows a model and its shadow; how either is trained is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.forget_split import KINDS, ForgetIndices, split_for_forgetting
from models.training.trainer import row_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.recommender.base import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """What a shadow model leaves out, so that the effect of leaving out is measured."""

    users: float = 0.2
    items: float = 0.01
    pairs: float = 0.01
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLossIncrease:
    """How much the loss of rows rises (nats) when a model never saw them.

    Measured between a model and its shadow: `mean` over `rows` rows, its standard error, and the
    spread (standard deviation) of the means of single users, `units` of them.
    """

    mean: float
    error: float
    spread: float
    rows: int
    units: int


def calibrate(
    data: Interactions,
    recommender: Recommender,
    prepared: ForgetSplit,
    holdout: frozenset[int],
    config: CalibrationConfig,
    train: Callable[[ForgetSplit], Recommender],
) -> dict[str, ExpectedLossIncrease]:
    """Train a shadow without some users, items and pairs; return the expected rise per kind.

    `train` makes a model of rows as the recommender was made of its own. The result is what the
    forgetting teacher is calibrated with, and what the audit compares with. A comparison of trained
    rows with the cohort's rows would measure how hard the two are instead: the shadow's differences
    are paired, row by row. The shadow's weights are never written.
    """
    shadow_data = shadow_rows(data, prepared, holdout, config)
    return expected_loss_increases(recommender, train(shadow_data), shadow_data, data)


def shadow_rows(
    data: Interactions, prepared: ForgetSplit, holdout: frozenset[int], config: CalibrationConfig
) -> ForgetSplit:
    """Return what a shadow trains on: the retained rows, less some users, items and pairs."""
    left_out = _leave_out(prepared.retained, holdout, config)
    return split_for_forgetting(data, left_out, holdout, prepared.bounds)


def expected_loss_increases(
    recommender: Recommender, shadow: Recommender, shadow_data: ForgetSplit, data: Interactions
) -> dict[str, ExpectedLossIncrease]:
    """Return per kind how much higher the shadow's loss is on the rows that it never saw.

    A shadow of fewer people is a little worse for everybody. What it is worse by for the cohort,
    whom neither saw, is no forgetting, and is taken off where there is a cohort.
    """

    def loss_increases(samples: Samples, table: Interactions) -> NDArray[Any]:
        found: NDArray[Any] = row_losses(shadow, samples, table)
        found -= row_losses(recommender, samples, table)
        return found

    holdout = shadow_data.parts.holdout
    general = float(loss_increases(holdout, shadow_data.retained).mean()) if len(holdout) else 0.0
    loss_increase = loss_increases(shadow_data.forget, data) - general
    expected = {}
    for index, kind in enumerate(KINDS):
        rows = shadow_data.forget_kind == index
        unit = shadow_data.forget.user[rows]
        means = [float(loss_increase[rows][unit == user].mean()) for user in np.unique(unit)]
        if len(means) > 1:
            expected[kind] = ExpectedLossIncrease(
                mean=float(loss_increase[rows].mean()),
                error=float(np.std(means, ddof=1) / np.sqrt(len(means))),
                spread=float(np.std(means, ddof=1)),
                rows=int(rows.sum()),
                units=len(means),
            )
    return expected


def _leave_out(
    data: Interactions, holdout: frozenset[int], config: CalibrationConfig
) -> ForgetIndices:
    generator = np.random.default_rng(config.seed)
    users = np.setdiff1d(np.unique(data.user), np.fromiter(holdout, np.int32))
    # A spread needs two people; whoever is left has to train a shadow.
    count = min(max(2, round(len(users) * config.users)), len(users) // 2)
    chosen = generator.choice(users, count, replace=False)
    rated = np.unique(data.item)
    items = generator.choice(rated, round(len(rated) * config.items), replace=False)
    rows = generator.choice(len(data), round(len(data) * config.pairs), replace=False)
    pairs = zip(data.user[rows].tolist(), data.item[rows].tolist(), strict=True)
    return ForgetIndices(
        users=frozenset(chosen.tolist()), items=frozenset(items.tolist()), pairs=frozenset(pairs)
    )
