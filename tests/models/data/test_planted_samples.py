"""Samples and their preparation on the planted world, where every kind of row really occurs."""

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
    """Return for each (user, candidate) the history, then the candidate; found one by one."""
    return {
        (user, candidate): (*(item for item in history if item >= 0), candidate)
        for user, candidate, history in zip(
            samples.user.tolist(), samples.candidate.tolist(), samples.history.tolist(), strict=True
        )
    }


def names(prepared: ForgetSplit) -> dict[Key, str]:
    """Return the kind of every forget row by its (user, candidate)."""
    kinds = [KINDS[index] for index in prepared.forget_kind.tolist()]
    return dict(zip(contents(prepared.forget), kinds, strict=True))


@pytest.fixture
def pairs(planted: Interactions, prepared: ForgetSplit) -> frozenset[Key]:
    """One interaction of three users each, of the training period."""
    early = planted.take(planted.timestamp < prepared.bounds.valid_from)
    found = [(user, int(early.item[early.user == user][0])) for user in (3, 5, 7)]
    return frozenset(found)


def test_every_rating_after_the_fifth_is_a_sample(planted: Interactions) -> None:
    samples = build_samples(planted)

    assert len(samples) == len(planted) - MINIMUM_HISTORY * len(planted.users)
    assert not (samples.history == samples.candidate[:, None]).any()


@pytest.mark.parametrize("user", [0, 61, 119])
def test_leaving_one_user_out_changes_no_other_sample(planted: Interactions, user: int) -> None:
    everyone = contents(build_samples(planted))

    without = contents(build_samples(planted.take(planted.user != user)))

    assert without == {key: held for key, held in everyone.items() if key[0] != user}
    assert len(without) < len(everyone)


def test_the_forget_rows_of_an_item_have_it_as_candidate_or_in_the_history(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    found = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30})), holdout, prepared.bounds
    )

    expected = {key for key, held in contents(prepared.parts.train).items() if 30 in held}
    assert names(found) == dict.fromkeys(expected, "item")
    assert {True, False} == {candidate == 30 for _, candidate in expected}


def test_the_forget_rows_of_a_pair_are_those_of_its_user_only(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit, pairs: frozenset[Key]
) -> None:
    found = split_for_forgetting(planted, ForgetIndices(pairs=pairs), holdout, prepared.bounds)

    expected = {
        key
        for key, held in contents(prepared.parts.train).items()
        if any((key[0], item) in pairs for item in held)
    }
    assert names(found) == dict.fromkeys(expected, "pair")
    assert {user for user, _ in expected} == {3, 5, 7}


def test_a_row_that_is_several_kinds_counts_as_the_first(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit, pairs: frozenset[Key]
) -> None:
    (user, _), (_, item), _ = sorted(pairs)
    forget = ForgetIndices(users=frozenset({user}), items=frozenset({item}), pairs=pairs)

    found = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    held = contents(found.forget)
    for key, name in names(found).items():
        assert name == ("user" if key[0] == user else "item" if item in held[key] else "pair")
    assert set(names(found).values()) == {"user", "item", "pair"}


def test_a_rating_before_the_sixth_is_forgotten_from_the_histories_it_stands_in(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    """The first five ratings make no sample of their own."""
    rows = planted.sorted_rows()
    pair = (3, int(planted.item[rows[planted.user[rows] == 3][0]]))

    found = split_for_forgetting(
        planted, ForgetIndices(pairs=frozenset({pair})), holdout, prepared.bounds
    )

    assert found.forget.earlier.tolist() == [5, 6, 7, 8, 9, 10]
    assert pair not in names(found)


def test_where_an_item_leaves_a_history_the_one_before_moves_up(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    found = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30})), holdout, prepared.bounds
    )

    for part in (found.parts.train, found.parts.valid, found.parts.test, found.parts.holdout):
        assert not any(30 in held for held in contents(part).values())
        present = (part.history >= 0).sum(axis=1)
        assert (present == np.minimum(part.earlier, 10)).all()


def test_a_holdout_user_has_no_forget_rows(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    member = min(holdout)
    item = int(planted.item[planted.user == member][0])
    forget = ForgetIndices(users=frozenset({member}), items=frozenset({item}))

    found = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    assert set(names(found).values()) == {"item"}
    assert not holdout & set(found.forget.user.tolist())
    assert member not in found.retained.user


def test_the_sides_of_a_row_never_change(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    forget = ForgetIndices(users=frozenset(range(1, 60)))

    found = split_for_forgetting(planted, forget, holdout, prepared.bounds)

    assert found.bounds == prepared.bounds
    for after, before in (
        (found.parts.train, prepared.parts.train),
        (found.parts.valid, prepared.parts.valid),
        (found.parts.test, prepared.parts.test),
        (found.parts.holdout, prepared.parts.holdout),
    ):
        kept = {key: held for key, held in contents(before).items() if key[0] not in forget.users}
        assert contents(after) == kept


def test_deleting_nearly_everything_cannot_be_split(
    planted: Interactions, holdout: frozenset[int]
) -> None:
    with pytest.raises(TooSmallToSplitError, match="Import more"):
        split_for_forgetting(planted, ForgetIndices(users=frozenset(range(3, 120))), holdout)


def test_unused_item_indices_are_those_of_no_training_sample(
    planted: Interactions, holdout: frozenset[int], prepared: ForgetSplit
) -> None:
    found = split_for_forgetting(
        planted, ForgetIndices(items=frozenset({30, 31})), holdout, prepared.bounds
    )

    used = {item for held in contents(found.parts.train).values() for item in held}
    assert set(found.unused_item_indices().tolist()) == set(range(150)) - used
    assert set(found.unused_item_indices().tolist()) == {
        30,
        31,
        *prepared.unused_item_indices().tolist(),
    }
    assert set(range(140, 150)) <= set(prepared.unused_item_indices().tolist())
