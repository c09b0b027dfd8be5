"""Compute the answers that the audit of persons reads: forget rows, neighbor prompts, controls."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from models.audit.evidence import AnsweredRows, Answers, Evidence
from models.audit.memorization import ControlRows
from models.data.forget_split import KINDS
from models.data.samples import Samples
from models.training.trainer import row_margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender

Rows = TypeVar("Rows", Samples, Answers)

#: Most control rows of one person, and the least number of control rows of all people.
CONTROLS_PER_PERSON: Final = 30
LEAST_CONTROLS: Final = 400


def forget_answers(old: Recommender, new: Recommender, prepared: ForgetSplit) -> Answers:
    """Return both models' answers on the forget rows of a split."""
    return _answers(old, new, prepared.forget, prepared.forget_kind, prepared.retained)


def holdout_answers(old: Recommender, new: Recommender, prepared: ForgetSplit) -> Answers:
    """Return both models' answers on the holdout rows of a split."""
    return _answers_without_kind(old, new, prepared.parts.holdout, prepared.retained)


def unseen_rows(
    old: Recommender, new: Recommender, prepared: ForgetSplit, holdout: Answers
) -> ControlRows:
    """Return the test and holdout rows of a split, which neither model saw, with their answers.

    `holdout` are the answers on the holdout rows.
    """
    test = _answers_without_kind(old, new, prepared.parts.test, prepared.retained)
    return ControlRows(
        samples=_joined(prepared.parts.test, prepared.parts.holdout),
        answers=_joined(test, holdout),
    )


def gather(old: Recommender, new: Recommender, prepared: ForgetSplit, forget: Answers) -> Evidence:
    """Return the evidence on persons: `forget`, neighbor prompts, and control rows of the split."""
    data = prepared.retained
    controls = control_samples(prepared)
    control_answers = _answers_without_kind(old, new, controls, data)
    return Evidence(
        forget=_with_neighbors(forget, old, new, prepared.forget, data),
        controls=_with_neighbors(control_answers, old, new, controls, data),
    )


def neighbors(samples: Samples) -> Samples:
    """Return the samples with histories that lack the newest event.

    No model trains on such prompts: a training prompt of the same candidate has the whole history.
    The candidate is not in the history, and every sample keeps at least one event, because samples
    have at least five earlier ratings.
    """
    history = np.roll(samples.history, 1, axis=1)
    history_rating = np.roll(samples.history_rating, 1, axis=1)
    history[:, 0], history_rating[:, 0] = -1, 0
    return replace(
        samples,
        history=history,
        history_rating=history_rating,
        earlier=np.maximum(samples.earlier - 1, 0),
    )


def control_samples(prepared: ForgetSplit) -> Samples:
    """Return training and holdout rows of people who are not forgotten, spread over many people.

    At most as many rows as the holdout and test rows have, or LEAST_CONTROLS, so that the limits of
    a recipe on evaluation rows also limit the cost of the audit. The first rows of all people come
    before the second rows, in an order that depends on the split only.
    """
    parts = prepared.parts
    forgotten = prepared.forget.user[prepared.forget_kind == KINDS.index("user")]
    train = parts.train.take(~np.isin(parts.train.user, forgotten))
    samples = _joined(train, parts.holdout)
    shuffled = np.random.default_rng(0).permutation(len(samples))
    users = samples.user[shuffled]
    by_user = np.argsort(users, kind="stable")
    ordered = users[by_user]
    turn = np.empty(len(samples), dtype=np.int64)
    turn[by_user] = np.arange(len(samples)) - np.searchsorted(ordered, ordered)
    most = max(LEAST_CONTROLS, len(parts.holdout) + len(parts.test))
    first = np.argsort(turn, kind="stable")
    first = first[turn[first] < CONTROLS_PER_PERSON][:most]
    return samples.take(np.sort(shuffled[first]))


def _joined(first: Rows, second: Rows) -> Rows:
    """Return the rows of two groups of samples, or of answers, one after the other."""
    columns: dict[str, Any] = {
        column.name: np.concatenate([getattr(first, column.name), getattr(second, column.name)])
        for column in fields(first)
    }
    return type(first)(**columns)


def _answers_without_kind(
    old: Recommender, new: Recommender, samples: Samples, data: Interactions
) -> Answers:
    """Return both models' answers on rows that are not forgotten."""
    return _answers(old, new, samples, np.full(len(samples), -1, dtype=np.int64), data)


def _answers(
    old: Recommender,
    new: Recommender,
    samples: Samples,
    kinds: NDArray[np.int64],
    data: Interactions,
) -> Answers:
    return Answers(
        users=samples.user,
        labels=samples.label.astype(np.float64),
        kinds=kinds,
        old=row_margins(old, samples, data),
        new=row_margins(new, samples, data),
    )


def _with_neighbors(
    answers: Answers, old: Recommender, new: Recommender, samples: Samples, data: Interactions
) -> AnsweredRows:
    near = neighbors(samples)
    return AnsweredRows(
        users=answers.users,
        labels=answers.labels,
        kinds=answers.kinds,
        old=answers.old,
        new=answers.new,
        old_neighbors=row_margins(old, near, data),
        new_neighbors=row_margins(new, near, data),
    )
