"""The data that each protocol forgets, and the data that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.unlearning.protocols import (
    PROTOCOLS,
    ProtocolError,
    apply_protocol,
    forgotten_by,
    owners,
)
from models.data.splits import TooSmallToSplitError
from tests.support.interaction_tables import planted_interactions, table

if TYPE_CHECKING:
    from models.data.forget_split import ForgetSplit

USER_PROTOCOLS = ["paper", "one-percent", "single-user", "sequential"]


def forgotten(prepared: ForgetSplit) -> set[int]:
    return set(prepared.forget.user.tolist())


@pytest.mark.parametrize("protocol", USER_PROTOCOLS)
def test_forgotten_users_are_in_no_retained_part(protocol: str) -> None:
    case = apply_protocol(planted_interactions(), protocol, 0)
    gone, parts = forgotten(case.batch), case.batch.parts
    for part in (parts.train, parts.valid, parts.test):
        assert not gone & set(part.user.tolist())
    assert gone <= set(case.whole.parts.train.user.tolist())
    assert case.batch.bounds == case.whole.bounds


@pytest.mark.parametrize(("protocol", "share"), [("paper", 0.2), ("one-percent", 0.01)])
def test_share_of_the_training_users_is_forgotten(protocol: str, share: float) -> None:
    case = apply_protocol(planted_interactions(), protocol, 0)
    users = len(np.unique(case.whole.parts.train.user))
    assert len(forgotten(case.batch)) == max(1, round(users * share))
    assert len(case.whole.parts.train) == len(case.batch.parts.train) + len(case.batch.forget)


def test_single_users_have_a_typical_number_of_rows() -> None:
    case = apply_protocol(planted_interactions(), "single-user", 0)
    assert len(case.batches) == len(forgotten(case.batch)) == 20
    users, rows = np.unique(case.whole.parts.train.user, return_counts=True)
    drawn = rows[np.isin(users, list(forgotten(case.batch)))]
    assert np.quantile(rows, 0.35) <= drawn.min()
    assert drawn.max() <= np.quantile(rows, 0.65)


def test_single_users_are_forgotten_alone_from_the_whole_data() -> None:
    case = apply_protocol(planted_interactions(), "single-user", 0)
    assert case.independent
    whole = len(case.whole.parts.train)
    for batch, step in zip(case.batches, case.steps(), strict=True):
        assert forgotten(step) == set(batch.users)
        assert len(step.parts.train) == whole - len(step.forget)


def test_rows_of_a_single_user_are_answered_without_that_user() -> None:
    case = apply_protocol(planted_interactions(), "single-user", 0)
    own = owners(case, case.batch.forget.user)
    for user, batch in zip(case.batch.forget.user.tolist(), own.tolist(), strict=True):
        assert user in case.batches[batch].users
    others = owners(case, case.batch.parts.test.user)
    assert set(others.tolist()) <= set(range(20))
    assert len(np.unique(others)) > 10
    assert len(np.unique(np.stack([others, case.batch.parts.test.user]), axis=1).T) == len(
        np.unique(case.batch.parts.test.user)
    )


def test_few_single_users_are_all_drawn() -> None:
    case = apply_protocol(planted_interactions(users=30), "single-user", 0)
    assert 1 < len(case.batches) < 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_same_seed_draws_the_same_batches(protocol: str) -> None:
    data = planted_interactions()
    first, again, other = (apply_protocol(data, protocol, seed).batches for seed in (3, 3, 4))
    assert first == again != other


def test_sequential_forgets_the_users_of_paper_in_batches() -> None:
    data = planted_interactions()
    case, paper = apply_protocol(data, "sequential", 0), apply_protocol(data, "paper", 0)
    assert len(case.batches) == 20
    assert sum(len(batch.users) for batch in case.batches) == len(paper.batches[0].users)
    assert forgotten(case.batch) == forgotten(paper.batch)
    steps = list(case.steps())
    assert [forgotten(step) for step in steps] == [set(batch.users) for batch in case.batches]
    gone: set[int] = set()
    for step in steps:
        gone |= forgotten(step)
        assert not gone & set(step.parts.train.user.tolist())
    # The data after the last job is the training data of Retrain.
    last, whole = steps[-1].parts, case.batch.parts
    for part in ("train", "valid", "test"):
        assert np.array_equal(getattr(last, part).candidate, getattr(whole, part).candidate)
    assert sum(len(step.forget) for step in steps) == len(case.batch.forget)


def test_forgotten_rows_grow_with_every_batch() -> None:
    case = apply_protocol(planted_interactions(), "sequential", 0)
    rows = forgotten_by(case)
    assert [len(gone) for gone in rows] == sorted(len(gone) for gone in rows)
    assert set(case.batch.forget.user[rows[0]].tolist()) == set(case.batches[0].users)
    assert rows[-1].tolist() == list(range(len(case.batch.forget)))


def test_few_users_are_forgotten_one_per_batch() -> None:
    case = apply_protocol(planted_interactions(users=30), "sequential", 0)
    assert [len(batch.users) for batch in case.batches] == [1] * len(case.batches)
    assert 1 < len(case.batches) < 20


def test_rows_that_contain_forgotten_ratings_are_forgotten() -> None:
    data = planted_interactions()
    case = apply_protocol(data, "interactions", 0)
    (batch,) = case.batches
    train = case.whole.parts.train
    assert len(batch.pairs) == round(len(train) * 0.01)
    left = set(zip(case.batch.retained.user, case.batch.retained.item, strict=True))
    assert not left & batch.pairs
    assert len(left) == len(data) - len(batch.pairs)
    touched = train.touches_pairs(batch.pairs)
    assert len(case.batch.forget) == touched.sum()
    assert not any(
        part.touches_pairs(batch.pairs).any()
        for part in (case.batch.parts.train, case.batch.parts.valid, case.batch.parts.test)
    )


def test_forgotten_item_is_removed_and_its_item_index_is_unused() -> None:
    data = planted_interactions()
    case = apply_protocol(data, "items", 0)
    (batch,) = case.batches
    assert len(batch.items) == 1
    parts = case.batch.parts
    for part in (parts.train, parts.valid, parts.test):
        assert not part.touches_items(batch.items).any()
    assert batch.items <= set(case.batch.unused_item_indices().tolist())
    assert len(case.batch.forget) == case.whole.parts.train.touches_items(batch.items).sum()
    assert len(case.batch.retained.items) == len(data.items)  # Item indices stay the same.


def test_unknown_protocol_error_lists_the_protocols() -> None:
    with pytest.raises(ProtocolError, match=r"no protocol 'papier'. Known: .*paper"):
        apply_protocol(planted_interactions(), "papier", 0)


def test_protocol_without_training_rows_left_is_refused() -> None:
    one_user = table([(0, n, 1 + n % 5, n) for n in range(400)], users=1, items=400)
    with pytest.raises(ProtocolError, match="training rows"):
        apply_protocol(one_user, "paper", 0)


def test_protocol_without_test_rows_left_is_refused() -> None:
    """All late rows are about item 7, so no test row is left if item 7 is forgotten."""
    rows = []
    for user in range(140):
        rated = [*range(5), 8, 7] if user < 60 else [*range(5), 7]
        rows += [(user, item, 1 + 4 * (user % 2), 100 * user + n) for n, item in enumerate(rated)]
    data = table(rows, users=140, items=9)
    assert apply_protocol(data, "items", 0).batches[0].items == {8}
    with pytest.raises(ProtocolError, match="would leave 0 rows to test on"):
        apply_protocol(data, "items", 1)


def test_too_little_data_is_refused() -> None:
    with pytest.raises(TooSmallToSplitError):
        apply_protocol(table([(0, 0, 4, 1)], users=1, items=1), "paper", 0)
