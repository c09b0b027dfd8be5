"""Tests of the split by time and of the split into forget rows and retained samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.forget_split import KINDS, ForgetIndices, ForgetSplit, split_for_forgetting
from models.data.samples import Samples, build_samples
from models.data.splits import (
    MINIMUM_SPLIT,
    RowLimits,
    TimeSplit,
    TooSmallToSplitError,
    split_by_time,
)
from tests.support.interaction_tables import HOLDOUT, ITEMS, USERS, planted_interactions, table

DATA = planted_interactions()
SAMPLES = build_samples(DATA)
BOUNDS = TimeSplit.by_shares(SAMPLES, train=0.9, valid=0.05)

user_indices = st.integers(0, USERS - 1)
item_indices = st.integers(0, ITEMS - 1)
forget_sets = st.builds(
    ForgetIndices,
    users=st.frozensets(user_indices, max_size=3),
    items=st.frozensets(item_indices, max_size=2),
    pairs=st.frozensets(st.tuples(user_indices, item_indices), max_size=4),
)


def keys(samples: Samples) -> set[tuple[int, int]]:
    """Return the (user, candidate) pairs, which identify the samples."""
    return set(zip(samples.user.tolist(), samples.candidate.tolist(), strict=True))


def all_parts(prepared: ForgetSplit) -> list[Samples]:
    parts = prepared.parts
    return [parts.train, parts.valid, parts.test, parts.holdout]


def test_split_by_shares_follows_time() -> None:
    parts = split_by_time(SAMPLES, BOUNDS, holdout_users=())
    shares = [len(part) / len(SAMPLES) for part in (parts.train, parts.valid, parts.test)]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.005)
    assert parts.train.timestamp.max() < parts.valid.timestamp.min()
    assert parts.valid.timestamp.max() < parts.test.timestamp.min()


def test_parts_are_disjoint_and_holdout_users_neither_train_nor_select() -> None:
    parts = split_by_time(SAMPLES, BOUNDS, HOLDOUT)
    part_keys = [keys(part) for part in (parts.train, parts.valid, parts.test, parts.holdout)]
    assert sum(map(len, part_keys)) == len(set().union(*part_keys))
    is_valid = (SAMPLES.timestamp >= BOUNDS.valid_from) & (SAMPLES.timestamp < BOUNDS.test_from)
    unused = SAMPLES.take(is_valid & np.isin(SAMPLES.user, list(HOLDOUT)))
    assert len(unused)
    assert set().union(*part_keys) == keys(SAMPLES) - keys(unused)
    assert not HOLDOUT & set(parts.train.user.tolist())
    assert not HOLDOUT & set(parts.valid.user.tolist())
    assert set(parts.holdout.user.tolist()) == HOLDOUT
    assert parts.holdout.timestamp.max() < BOUNDS.valid_from


def one_sample_per_user(count: int, *, same_time: bool = False) -> Samples:
    """Return `count` samples of `count` users."""
    rows = [
        (user, item, 4.0, 0 if same_time else user * 10 + item)
        for user in range(count)
        for item in range(6)
    ]
    return build_samples(table(rows, count, 6))


def test_too_few_samples_cannot_be_split() -> None:
    enough = MINIMUM_SPLIT * 20 + 1
    with pytest.raises(TooSmallToSplitError):
        TimeSplit.by_shares(one_sample_per_user(enough - 20), train=0.9, valid=0.05)
    bounds = TimeSplit.by_shares(one_sample_per_user(enough), train=0.9, valid=0.05)
    parts = split_by_time(one_sample_per_user(enough), bounds, holdout_users=())
    assert min(len(parts.valid), len(parts.test)) >= MINIMUM_SPLIT


def test_samples_with_equal_timestamps_cannot_be_split() -> None:
    with pytest.raises(TooSmallToSplitError):
        TimeSplit.by_shares(one_sample_per_user(1000, same_time=True), train=0.9, valid=0.05)


def test_empty_table_cannot_be_split() -> None:
    with pytest.raises(TooSmallToSplitError):
        split_for_forgetting(table([], 1, 1), ForgetIndices(), frozenset())


def test_manifest_of_bounds_gives_equal_bounds() -> None:
    assert TimeSplit.from_manifest(BOUNDS.manifest()) == BOUNDS


@given(forget_sets)
@settings(max_examples=15, deadline=None)
def test_forget_rows_are_training_rows_with_forgotten_interactions(forget: ForgetIndices) -> None:
    prepared = split_for_forgetting(DATA, forget, HOLDOUT, BOUNDS)
    before = split_by_time(SAMPLES, BOUNDS, HOLDOUT).train
    expected = {}
    for user, candidate, history in zip(
        before.user.tolist(), before.candidate.tolist(), before.history.tolist(), strict=True
    ):
        contained = {candidate, *history}
        if user in forget.users:
            expected[user, candidate] = "user"
        elif contained & forget.items:
            expected[user, candidate] = "item"
        elif any((user, item) in forget.pairs for item in contained):
            expected[user, candidate] = "pair"
    kinds = [KINDS[kind] for kind in prepared.forget_kind]
    names = zip(prepared.forget.user.tolist(), prepared.forget.candidate.tolist(), strict=True)
    assert dict(zip(names, kinds, strict=True)) == expected


@given(forget_sets)
@settings(max_examples=15, deadline=None)
def test_retained_samples_contain_no_forgotten_interaction(forget: ForgetIndices) -> None:
    prepared = split_for_forgetting(DATA, forget, HOLDOUT, BOUNDS)
    assert not forget.rows(prepared.retained).any()
    for part in all_parts(prepared):
        assert not np.isin(part.user, list(forget.users)).any()
        assert not part.touches_items(forget.items).any()
        assert not part.touches_pairs(forget.pairs).any()


def test_removing_users_keeps_all_other_samples() -> None:
    before = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT, BOUNDS)
    after = split_for_forgetting(DATA, ForgetIndices(users=frozenset({3, 8})), HOLDOUT, BOUNDS)
    for old, new in zip(all_parts(before), all_parts(after), strict=True):
        others = old.take(~np.isin(old.user, [3, 8]))
        for name in ("user", "candidate", "label", "timestamp", "history", "history_rating"):
            np.testing.assert_array_equal(getattr(others, name), getattr(new, name))


def test_removing_pair_rebuilds_later_histories() -> None:
    user = 1
    own = build_samples(DATA.take(DATA.user == user))
    row = len(own) // 2
    item = int(own.history[row, -1])
    prepared = split_for_forgetting(
        DATA, ForgetIndices(pairs=frozenset({(user, item)})), HOLDOUT, BOUNDS
    )
    train = prepared.parts.train.take(prepared.parts.train.user == user)
    rebuilt = train.take(train.candidate == own.candidate[row])
    assert rebuilt.history[0, -9:].tolist() == own.history[row, :-1].tolist()
    assert rebuilt.earlier[0] == own.earlier[row] - 1
    assert item not in rebuilt.history[0]


def test_given_bounds_are_kept() -> None:
    forget = ForgetIndices(users=frozenset(range(1, 120)))
    assert split_for_forgetting(DATA, forget, HOLDOUT, BOUNDS).bounds == BOUNDS
    assert split_for_forgetting(DATA, forget, HOLDOUT).bounds != BOUNDS


def test_forgetting_holdout_user_gives_no_forget_rows() -> None:
    user = min(HOLDOUT)
    prepared = split_for_forgetting(DATA, ForgetIndices(users=frozenset({user})), HOLDOUT, BOUNDS)
    assert len(prepared.forget) == 0
    assert user not in prepared.parts.holdout.user


def test_only_forgotten_item_is_unused() -> None:
    prepared = split_for_forgetting(DATA, ForgetIndices(items=frozenset({5})), HOLDOUT, BOUNDS)
    assert prepared.unused_item_indices().tolist() == [5]


def test_item_with_one_rater_becomes_unused_without_that_rater() -> None:
    data = table(
        [
            *zip(DATA.user, DATA.item, DATA.rating, DATA.timestamp, strict=True),
            (1, ITEMS, 5.0, int(DATA.timestamp.min())),
        ],
        USERS,
        ITEMS + 1,
    )
    before = split_for_forgetting(data, ForgetIndices(), HOLDOUT, BOUNDS)
    after = split_for_forgetting(data, ForgetIndices(users=frozenset({1})), HOLDOUT, BOUNDS)
    assert ITEMS not in before.unused_item_indices()
    assert after.unused_item_indices().tolist() == [ITEMS]


def test_limits_reduce_parts_and_choose_rows_independently() -> None:
    data = planted_interactions(users=60, items=40, per_user=30)
    holdout = frozenset(range(6))
    reduced = split_for_forgetting(
        data, ForgetIndices(), holdout, limits=RowLimits(train=200, evaluation=50)
    )
    sizes = [len(part) for part in all_parts(reduced)]
    assert 150 < sizes[0] < 250
    assert all(25 < size < 75 for size in sizes[1:])

    without = split_for_forgetting(
        data, ForgetIndices(users=frozenset({20, 21})), holdout, reduced.bounds
    )
    forgotten = {key for key in keys(reduced.parts.train) if key[0] in {20, 21}}
    assert forgotten
    # The removal of users does not change which rows of the other users are used.
    assert keys(without.parts.train) == keys(reduced.parts.train) - forgotten
    assert keys(without.forget) == forgotten
