"""Tests of samples and forget rows on the planted data, which has every kind of row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.data.forget_split import KINDS, ForgetIndices, ForgetSplit, split_for_forgetting
from models.data.samples import MINIMUM_HISTORY, Samples, build_samples
from models.data.splits import TooSmallToSplitError

if TYPE_CHECKING:
    from models.data.interactions import Interactions

Key = tuple[int, int]


def contents(samples: Samples) -> dict[Key, tuple[int, ...]]:
    """Return the items of every sample, history first, by its (user, candidate)."""
    return {
        (user, candidate): (*(item for item in history if item >= 0), candidate)
        for user, candidate, history in zip(
            samples.user.tolist(), samples.candidate.tolist(), samples.history.tolist(), strict=True
        )
    }


def kinds_by_key(prepared: ForgetSplit) -> dict[Key, str]:
    """Return the kind of every forget row by its (user, candidate)."""
    kinds = [KINDS[index] for index in prepared.forget_kind.tolist()]
    return dict(zip(contents(prepared.forget), kinds, strict=True))


@pytest.fixture
def pairs(planted: Interactions, prepared: ForgetSplit) -> frozenset[Key]:
    """Return one (user, item) pair from the training period for each of three users."""
    early = planted.take(planted.timestamp < prepared.bounds.valid_from)
    pairs = [(user, int(early.item[early.user == user][0])) for user in (3, 5, 7)]
    return frozenset(pairs)


def test_every_rating_after_the_fifth_gives_a_sample(planted: Interactions) -> None:
    samples = build_samples(planted)

    assert len(samples) == len(planted) - MINIMUM_HISTORY * len(planted.users)
    assert not (samples.history == samples.candidate[:, None]).any()


@pytest.mark.parametrize("user", [0, 61, 119])
def test_removing_user_keeps_all_other_samples(planted: Interactions, user: int) -> None:
    complete = contents(build_samples(planted))

    without = contents(build_samples(planted.take(planted.user != user)))

    assert without == {key: items for key, items in complete.items() if key[0] != user}
    assert len(without) < len(complete)


def test_forget_rows_of_item_have_it_as_candidate_or_in_history(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    split = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30})), holdout, prepared.bounds
    )

    expected = {key for key, items in contents(prepared.parts.train).items() if 30 in items}
    assert kinds_by_key(split) == dict.fromkeys(expected, "item")
    assert {True, False} == {candidate == 30 for _, candidate in expected}


def test_forget_rows_of_pairs_belong_to_their_users(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit, pairs: frozenset[Key]
) -> None:
    split = split_for_forgetting(planted, ForgetIndices(pairs=pairs), holdout, prepared.bounds)

    expected = {
        key
        for key, items in contents(prepared.parts.train).items()
        if any((key[0], item) in pairs for item in items)
    }
    assert kinds_by_key(split) == dict.fromkeys(expected, "pair")
    assert {user for user, _ in expected} == {3, 5, 7}


def test_row_with_several_kinds_counts_as_first_kind(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit, pairs: frozenset[Key]
) -> None:
    (user, _), (_, item), _ = sorted(pairs)
    forget = ForgetIndices(users=frozenset({user}), items=frozenset({item}), pairs=pairs)

    split = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    items_of = contents(split.forget)
    for key, kind in kinds_by_key(split).items():
        assert kind == ("user" if key[0] == user else "item" if item in items_of[key] else "pair")
    assert set(kinds_by_key(split).values()) == {"user", "item", "pair"}


def test_forgetting_one_of_first_five_ratings_affects_later_samples(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    """The first five ratings give no sample, but occur in histories."""
    rows = planted.sorted_rows()
    pair = (3, int(planted.item[rows[planted.user[rows] == 3][0]]))

    split = split_for_forgetting(
        planted, ForgetIndices(pairs=frozenset({pair})), holdout, prepared.bounds
    )

    assert split.forget.earlier.tolist() == [5, 6, 7, 8, 9, 10]
    assert pair not in kinds_by_key(split)


def test_removed_history_item_is_replaced_by_earlier_one(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    split = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30})), holdout, prepared.bounds
    )

    for part in (split.parts.train, split.parts.valid, split.parts.test, split.parts.holdout):
        assert not any(30 in items for items in contents(part).values())
        present = (part.history >= 0).sum(axis=1)
        assert (present == np.minimum(part.earlier, 10)).all()


def test_holdout_user_has_no_forget_rows(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    user = min(holdout)
    item = int(planted.item[planted.user == user][0])
    forget = ForgetIndices(users=frozenset({user}), items=frozenset({item}))

    split = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    assert set(kinds_by_key(split).values()) == {"item"}
    assert not holdout & set(split.forget.user.tolist())
    assert user not in split.retained.user


def test_rows_stay_in_their_part(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    forget = ForgetIndices(users=frozenset(range(1, 60)))

    split = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    assert split.bounds == prepared.bounds
    for after, before in (
        (split.parts.train, prepared.parts.train),
        (split.parts.valid, prepared.parts.valid),
        (split.parts.test, prepared.parts.test),
        (split.parts.holdout, prepared.parts.holdout),
    ):
        kept = {key: items for key, items in contents(before).items() if key[0] not in forget.users}
        assert contents(after) == kept


def test_too_little_retained_data_cannot_be_split(
    planted: Interactions, holdout: frozenset[int]
) -> None:
    with pytest.raises(TooSmallToSplitError, match="Import more"):
        split_for_forgetting(planted, ForgetIndices(users=frozenset(range(3, 120))), holdout)


def test_unused_item_indices_occur_in_no_training_sample(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    split = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30, 31})), holdout, prepared.bounds
    )

    used = {item for items in contents(split.parts.train).values() for item in items}
    assert set(split.unused_item_indices().tolist()) == set(range(150)) - used
    assert set(split.unused_item_indices().tolist()) == {
        30,
        31,
        *prepared.unused_item_indices().tolist(),
    }
    assert set(range(140, 150)) <= set(prepared.unused_item_indices().tolist())
