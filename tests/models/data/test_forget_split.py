"""Splits and preparation: what trains, what is forgotten, and what never sees training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.forget_split import KINDS, ForgetIndices, ForgetSplit, split_for_forgetting
from models.data.samples import Samples, build_samples
from models.data.splits import MINIMUM_SPLIT, RowLimits, TimeSplit, TooSmallToSplitError, split
from tests.support.interaction_tables import HOLDOUT, ITEMS, USERS, planted_interactions, table

DATA = planted_interactions()
SAMPLES = build_samples(DATA)
BOUNDS = TimeSplit.by_shares(SAMPLES, train=0.9, valid=0.05)

somebody = st.integers(0, USERS - 1)
something = st.integers(0, ITEMS - 1)
forget_sets = st.builds(
    ForgetIndices,
    users=st.frozensets(somebody, max_size=3),
    items=st.frozensets(something, max_size=2),
    pairs=st.frozensets(st.tuples(somebody, something), max_size=4),
)


def keys(samples: Samples) -> set[tuple[int, int]]:
    """Return the (user, candidate) pairs, which name a sample."""
    return set(zip(samples.user.tolist(), samples.candidate.tolist(), strict=True))


def every_part(prepared: ForgetSplit) -> list[Samples]:
    parts = prepared.parts
    return [parts.train, parts.valid, parts.test, parts.holdout]


def test_the_product_trains_on_nine_tenths_by_time() -> None:
    parts = split(SAMPLES, BOUNDS, holdout=())
    shares = [len(part) / len(SAMPLES) for part in (parts.train, parts.valid, parts.test)]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.005)
    assert parts.train.timestamp.max() < parts.valid.timestamp.min()
    assert parts.valid.timestamp.max() < parts.test.timestamp.min()


def test_parts_are_disjoint_and_complete_and_the_holdout_never_trains() -> None:
    parts = split(SAMPLES, BOUNDS, HOLDOUT)
    found = [keys(part) for part in (parts.train, parts.valid, parts.test, parts.holdout)]
    assert sum(map(len, found)) == len(SAMPLES)
    assert set().union(*found) == keys(SAMPLES)
    assert not HOLDOUT & set(parts.train.user.tolist())
    assert set(parts.holdout.user.tolist()) == HOLDOUT
    assert parts.holdout.timestamp.max() < BOUNDS.valid_from


def one_each(count: int, *, same_time: bool = False) -> Samples:
    """Return `count` samples, one per user."""
    rows = [
        (user, item, 4.0, 0 if same_time else user * 10 + item)
        for user in range(count)
        for item in range(6)
    ]
    return build_samples(table(rows, count, 6))


def test_too_few_samples_cannot_be_split() -> None:
    enough = MINIMUM_SPLIT * 20 + 1
    with pytest.raises(TooSmallToSplitError):
        TimeSplit.by_shares(one_each(enough - 20), train=0.9, valid=0.05)
    bounds = TimeSplit.by_shares(one_each(enough), train=0.9, valid=0.05)
    parts = split(one_each(enough), bounds, holdout=())
    assert min(len(parts.valid), len(parts.test)) >= MINIMUM_SPLIT


def test_samples_of_one_moment_cannot_be_split_by_time() -> None:
    with pytest.raises(TooSmallToSplitError):
        TimeSplit.by_shares(one_each(1000, same_time=True), train=0.9, valid=0.05)


def test_nothing_at_all_cannot_be_split() -> None:
    with pytest.raises(TooSmallToSplitError):
        split_for_forgetting(table([], 1, 1), ForgetIndices(), frozenset())


def test_bounds_survive_their_manifest() -> None:
    assert TimeSplit.from_manifest(BOUNDS.manifest()) == BOUNDS


@given(forget_sets)
@settings(max_examples=15, deadline=None)
def test_forget_rows_are_the_training_rows_that_contain_what_goes(forget: ForgetIndices) -> None:
    prepared = split_for_forgetting(DATA, forget, HOLDOUT, BOUNDS)
    before = split(SAMPLES, BOUNDS, HOLDOUT).train
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
def test_nothing_that_is_retained_contains_what_goes(forget: ForgetIndices) -> None:
    prepared = split_for_forgetting(DATA, forget, HOLDOUT, BOUNDS)
    assert not forget.rows(prepared.retained).any()
    for part in every_part(prepared):
        assert not np.isin(part.user, list(forget.users)).any()
        assert not part.touches_items(forget.items).any()
        assert not part.touches_pairs(forget.pairs).any()


def test_a_users_removal_leaves_every_other_sample_where_it_was() -> None:
    before = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT, BOUNDS)
    after = split_for_forgetting(DATA, ForgetIndices(users=frozenset({3, 8})), HOLDOUT, BOUNDS)
    for old, new in zip(every_part(before), every_part(after), strict=True):
        others = old.take(~np.isin(old.user, [3, 8]))
        for name in ("user", "candidate", "label", "timestamp", "history", "history_rating"):
            np.testing.assert_array_equal(getattr(others, name), getattr(new, name))


def test_a_pairs_removal_rebuilds_the_histories_after_it() -> None:
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


def test_given_bounds_are_kept_whatever_is_forgotten() -> None:
    gone = ForgetIndices(users=frozenset(range(1, 120)))
    assert split_for_forgetting(DATA, gone, HOLDOUT, BOUNDS).bounds == BOUNDS
    assert split_for_forgetting(DATA, gone, HOLDOUT).bounds != BOUNDS


def test_forgetting_somebody_of_the_holdout_has_no_training_rows() -> None:
    person = min(HOLDOUT)
    prepared = split_for_forgetting(DATA, ForgetIndices(users=frozenset({person})), HOLDOUT, BOUNDS)
    assert len(prepared.forget) == 0
    assert person not in prepared.parts.holdout.user


def test_an_item_that_is_forgotten_is_unused_and_others_are_not() -> None:
    prepared = split_for_forgetting(DATA, ForgetIndices(items=frozenset({5})), HOLDOUT, BOUNDS)
    assert prepared.unused_item_indices().tolist() == [5]


def test_a_lone_raters_item_becomes_unused_with_its_rater() -> None:
    lonely = table(
        [
            *zip(DATA.user, DATA.item, DATA.rating, DATA.timestamp, strict=True),
            (1, ITEMS, 5.0, int(DATA.timestamp.min())),
        ],
        USERS,
        ITEMS + 1,
    )
    before = split_for_forgetting(lonely, ForgetIndices(), HOLDOUT, BOUNDS)
    after = split_for_forgetting(lonely, ForgetIndices(users=frozenset({1})), HOLDOUT, BOUNDS)
    assert ITEMS not in before.unused_item_indices()
    assert after.unused_item_indices().tolist() == [ITEMS]


def test_limits_leave_about_so_many_rows_and_choose_each_by_itself() -> None:
    data = planted_interactions(users=60, items=40, each=30)
    holdout = frozenset(range(6))
    drawn = split_for_forgetting(
        data, ForgetIndices(), holdout, limits=RowLimits(train=200, evaluation=50)
    )
    sizes = [len(part) for part in every_part(drawn)]
    assert 150 < sizes[0] < 250
    assert all(25 < size < 75 for size in sizes[1:])

    without = split_for_forgetting(
        data, ForgetIndices(users=frozenset({20, 21})), holdout, drawn.bounds
    )
    gone = {key for key in keys(drawn.parts.train) if key[0] in {20, 21}}
    assert gone
    # Nobody else's row is chosen because somebody left.
    assert keys(without.parts.train) == keys(drawn.parts.train) - gone
    assert keys(without.forget) == gone
