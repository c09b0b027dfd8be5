"""Measure what leaving rows out changes, with a shadow model that is trained without some rows.

A training job trains the shadow model and compares both models on those rows. The memorization
(`models.audit.memorization`) tells the unlearning method how far answers must move; the expected
loss increase is the same in nats. The person calibration (`models.audit.person_calibration`) is
what the audit expects of each person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from models.audit.answers import forget_answers, gather, holdout_answers, unseen_rows
from models.audit.differences import paired_difference
from models.audit.memorization import Memorization, fit_memorization
from models.audit.person_calibration import MINIMUM_PEOPLE, PersonCalibration, people_by_kind
from models.audit.person_model import People
from models.data.forget_split import KINDS, ForgetIndices, split_for_forgetting
from models.data.metrics import log_losses
from models.recommender.returned_rows import returned_rows
from models.recommender.token_rows import with_rows
from models.training.step import DivergedError
from models.training.trainer import row_margins

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.audit.evidence import Answers
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender


#: Confidence of the intervals of loss increases, which are not stored.
CONFIDENCE: Final = 0.9


class ShadowFailedError(RuntimeError):
    """The shadow model diverged, or answers of the release or the shadow are not numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """The shares of users, items and single interactions that the shadow model leaves out."""

    users: float = 0.2
    items: float = 0.01
    pairs: float = 0.01
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLossIncrease:
    """The expected loss increase (nats) of rows that a model never saw.

    `mean` is over `rows` rows. `error` is its standard error over users, that of the holdout users'
    loss increase included. `spread` is the standard deviation of the means of `units` single users.
    """

    mean: float
    error: float
    spread: float
    rows: int
    units: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What leaving rows out changes: by kind of row, and as the audit of persons expects it."""

    expected: dict[str, ExpectedLossIncrease]
    persons: PersonCalibration
    memorization: dict[str, Memorization]


def calibrate(
    data: Interactions,
    recommender: Recommender,
    prepared: ForgetSplit,
    holdout_users: frozenset[int],
    config: CalibrationConfig,
    train: Callable[[ForgetSplit], Recommender],
) -> Calibration:
    """Train a shadow without some users, items and pairs, and compare it with the recommender.

    `train` trains a model in the way the recommender was trained. The forgetting teacher and the
    audit use the result. The differences are paired, row by row; a comparison of training rows
    with holdout rows would measure the different difficulty of the two groups. The weights of the
    shadow are never written. Raises ShadowFailedError.
    """
    shadow_data = shadow_rows(data, prepared, holdout_users, config)
    try:
        shadow = train(shadow_data)
    except DivergedError as error:
        raise ShadowFailedError(ShadowFailedError.__doc__) from error
    answers = forget_answers(recommender, shadow, shadow_data)
    holdout = holdout_answers(recommender, shadow, shadow_data)
    _require_numbers(answers)
    _require_numbers(holdout)
    people = people_by_kind(answers)
    persons, memorization = PersonCalibration(models={}, people=people), {}
    # The other answers cost more passes through the model, often many more than the forget rows.
    if max(people.values()) >= MINIMUM_PEOPLE:
        evidence = gather(recommender, shadow, shadow_data, answers)
        _require_numbers(evidence.forget)
        _require_numbers(evidence.controls)
        persons = PersonCalibration.of(evidence)
        controls = unseen_rows(recommender, shadow, shadow_data, holdout)
        _require_numbers(controls.answers)
        returned = _changes_of_returned_rows(recommender, shadow_data, answers)
        memorization = fit_memorization(shadow_data, answers, returned, controls)
    return Calibration(
        expected=expected_loss_increases(shadow_data, answers, holdout),
        persons=persons,
        memorization=memorization,
    )


def _changes_of_returned_rows(
    recommender: Recommender, shadow_data: ForgetSplit, answers: Answers
) -> NDArray[np.float64]:
    """Return the [F] changes of the margins if only the rows of items are without the left-out."""
    rows = returned_rows(recommender, shadow_data)
    if not len(rows.tokens):
        return np.zeros_like(answers.old)
    returned = with_rows(recommender, rows)
    return row_margins(returned, shadow_data.forget, shadow_data.retained) - answers.old


def _require_numbers(answers: Answers) -> None:
    if not (answers.has_numbers and answers.has_new_numbers):
        raise ShadowFailedError(ShadowFailedError.__doc__)


def shadow_rows(
    data: Interactions,
    prepared: ForgetSplit,
    holdout_users: frozenset[int],
    config: CalibrationConfig,
) -> ForgetSplit:
    """Return the shadow's data: the retained rows without some users, items and pairs."""
    left_out = _choose_left_out(prepared.retained, holdout_users, config)
    return split_for_forgetting(data, left_out, holdout_users, prepared.bounds)


def expected_loss_increases(
    shadow_data: ForgetSplit, left_out: Answers, holdout: Answers
) -> dict[str, ExpectedLossIncrease]:
    """Return the shadow's loss less the recommender's on the rows the shadow never saw, by kind.

    `left_out` has the margins of the recommender (older) and of the shadow (newer) on these rows,
    `holdout` those on the holdout rows. A shadow with fewer users is slightly worse on all rows.
    Its loss increase on the holdout users, whose rows neither model saw, is not forgetting and is
    subtracted where there are such users.
    """
    general, general_error = 0.0, 0.0
    if len(holdout):
        change = paired_difference(*_losses(holdout), holdout.users, CONFIDENCE)
        general = change.mean
        general_error = change.error if math.isfinite(change.error) else 0.0
    old, new = _losses(left_out)
    expected = {}
    for index, kind in enumerate(KINDS):
        rows = shadow_data.forget_kind == index
        row_users = shadow_data.forget.user[rows]
        loss_increase = paired_difference(old[rows], new[rows], row_users, CONFIDENCE)
        if loss_increase.people > 1:
            means = People.of(row_users).means(new[rows] - old[rows])
            expected[kind] = ExpectedLossIncrease(
                mean=loss_increase.mean - general,
                error=math.hypot(loss_increase.error, general_error),
                spread=float(np.std(means, ddof=1)),
                rows=loss_increase.rows,
                units=loss_increase.people,
            )
    return expected


def _losses(answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the [M] log losses (nats) of the older and of the newer model."""
    old, new = (
        log_losses(answers.labels, margins).astype(np.float64)
        for margins in (answers.old, answers.new)
    )
    return old, new


def _choose_left_out(
    data: Interactions, holdout_users: frozenset[int], config: CalibrationConfig
) -> ForgetIndices:
    generator = np.random.default_rng(config.seed)
    users = np.setdiff1d(np.unique(data.user), np.fromiter(holdout_users, np.int32))
    # At least two users, because a spread needs two; at least half must remain to train on.
    count = min(max(2, round(len(users) * config.users)), len(users) // 2)
    chosen = generator.choice(users, count, replace=False)
    rated = np.unique(data.item)
    items = generator.choice(rated, round(len(rated) * config.items), replace=False)
    rows = generator.choice(len(data), round(len(data) * config.pairs), replace=False)
    pairs = zip(data.user[rows].tolist(), data.item[rows].tolist(), strict=True)
    return ForgetIndices(
        users=frozenset(chosen.tolist()), items=frozenset(items.tolist()), pairs=frozenset(pairs)
    )
