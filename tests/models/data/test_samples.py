"""Tests of samples: labels, histories, order, and the independence of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.samples import HISTORY_LENGTH, MINIMUM_HISTORY, Samples, build_samples
from tests.support.interaction_tables import table

if TYPE_CHECKING:
    from models.data.interactions import Interactions

USERS, ITEMS = 4, 16

ratings = st.integers(1, 10).map(lambda half_stars: half_stars / 2)
#: Few distinct timestamps make ties common; at most one row per (user, item).
tables = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), ratings, st.integers(0, 6)),
    max_size=60,
    unique_by=lambda row: row[:2],
).map(lambda rows: table(rows, USERS, ITEMS))


def one_user(count: int, *, rating: float = 4.0) -> Interactions:
    return table([(0, item, rating, 100 + item) for item in range(count)], 1, max(count, 1))


def rows_of(samples: Samples) -> list[tuple[object, ...]]:
    """Return all fields of each sample as plain values."""
    return list(
        zip(
            samples.user.tolist(),
            samples.candidate.tolist(),
            samples.label.tolist(),
            samples.timestamp.tolist(),
            map(tuple, samples.history.tolist()),
            map(tuple, samples.history_rating.tolist()),
            samples.earlier.tolist(),
            strict=True,
        )
    )


def slow_samples(data: Interactions) -> list[tuple[object, ...]]:
    """Build the samples with plain loops, following the definition in E2URec."""
    samples: list[tuple[object, ...]] = []
    for user in range(len(data.users)):
        rows = sorted(
            (int(data.timestamp[n]), int(data.item[n]), float(data.rating[n]))
            for n in np.flatnonzero(data.user == user)
        )
        for earlier, (timestamp, item, rating) in enumerate(rows):
            if earlier < 5:
                continue
            history = rows[max(0, earlier - 10) : earlier]
            absent = 10 - len(history)
            samples.append(
                (
                    user,
                    item,
                    1.0 if rating > 3 else 0.0,
                    timestamp,
                    (-1,) * absent + tuple(item_index for _, item_index, _ in history),
                    (0,) * absent + tuple(int(stars * 2) for _, _, stars in history),
                    earlier,
                )
            )
    return samples


@given(tables)
@settings(max_examples=60, deadline=None)
def test_samples_match_definition(data: Interactions) -> None:
    assert rows_of(build_samples(data)) == slow_samples(data)


@pytest.mark.parametrize(
    ("rating", "label"), [(0.5, 0.0), (3.0, 0.0), (3.5, 1.0), (4.0, 1.0), (5.0, 1.0)]
)
def test_more_than_three_stars_is_liked(rating: float, label: float) -> None:
    data = table([(0, n, rating if n == 5 else 1.0, n) for n in range(6)], 1, 6)
    assert build_samples(data).label.tolist() == [label]


@pytest.mark.parametrize(("count", "samples"), [(0, 0), (1, 0), (5, 0), (6, 1), (7, 2)])
def test_five_earlier_ratings_are_needed(count: int, samples: int) -> None:
    assert MINIMUM_HISTORY == 5
    assert len(build_samples(one_user(count))) == samples


def test_history_holds_last_ten_items_oldest_first() -> None:
    assert HISTORY_LENGTH == 10
    samples = build_samples(one_user(13))
    assert samples.history[-1].tolist() == list(range(2, 12))
    assert samples.history[0].tolist() == [-1] * 5 + [0, 1, 2, 3, 4]
    assert samples.earlier.tolist() == list(range(5, 13))


def test_equal_timestamps_are_ordered_by_item() -> None:
    order = [3, 5, 0, 4, 1, 2]
    samples = build_samples(table([(0, item, 4.0, 7) for item in order], 1, 6))
    assert samples.candidate.tolist() == [5]
    assert samples.history[0, -5:].tolist() == [0, 1, 2, 3, 4]


def test_history_ratings_are_in_half_stars() -> None:
    data = table([(0, n, (n + 1) / 2, n) for n in range(6)], 1, 6)
    assert build_samples(data).history_rating[0].tolist() == [0] * 5 + [1, 2, 3, 4, 5]


@given(tables, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_row_order_does_not_matter(data: Interactions, random: object) -> None:
    order = list(range(len(data)))
    random.shuffle(order)  # type: ignore[attr-defined] # hypothesis types it as object
    shuffled = data.take(np.array(order, dtype=np.int64))
    assert rows_of(build_samples(shuffled)) == rows_of(build_samples(data))


@given(tables, st.integers(0, USERS - 1))
@settings(max_examples=30, deadline=None)
def test_removing_user_keeps_all_other_samples(data: Interactions, removed: int) -> None:
    without = build_samples(data.take(data.user != removed))
    assert rows_of(without) == [row for row in rows_of(build_samples(data)) if row[0] != removed]


@given(tables, st.sets(st.integers(0, ITEMS - 1), max_size=3))
@settings(max_examples=30, deadline=None)
def test_touches_items_checks_candidate_and_history(data: Interactions, items: set[int]) -> None:
    samples = build_samples(data)
    expected = [
        bool(items & ({int(candidate)} | set(history.tolist())))
        for candidate, history in zip(samples.candidate, samples.history, strict=True)
    ]
    assert samples.touches_items(items).tolist() == expected


@given(
    tables,
    st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_touches_pairs_checks_only_samples_of_that_user(
    data: Interactions, pairs: set[tuple[int, int]]
) -> None:
    samples = build_samples(data)
    expected = [
        any(
            int(user) == pair_user and item in {int(candidate), *history.tolist()}
            for pair_user, item in pairs
        )
        for user, candidate, history in zip(
            samples.user, samples.candidate, samples.history, strict=True
        )
    ]
    assert samples.touches_pairs(pairs).tolist() == expected
