"""Count the rows of a request that the snapshot of the exact training contained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.worker.test_training_record import (
    HOLDOUT,
    LATE,
    PSEUDONYMS,
    TRAINED,
    changed,
    one_user,
    recorded,
    with_late_user,
)
from worker.learner import DataSnapshot, ForgetSet
from worker.training_record import TrainingRecord, count_known_rows

RECORD = TrainingRecord(version=TRAINED, excluded=frozenset(), is_self_contained=True)


def count(
    snapshot: DataSnapshot, forget: ForgetSet, record: TrainingRecord | None = RECORD
) -> int | None:
    return count_known_rows(replace(snapshot, requests={"r": forget}), record)["r"]


@pytest.mark.parametrize("user", ["u3", min(HOLDOUT)])
def test_every_row_of_the_snapshot_counts_also_of_holdout_users(user: str) -> None:
    """Rows that trained nothing may have chosen time bounds or the calibration."""
    snapshot = recorded()
    index = next(n for n, record in enumerate(snapshot.data.users) if record.id == user)
    assert count(snapshot, one_user(user)) == (snapshot.data.user == index).sum() > 0


def test_newer_and_excluded_rows_do_not_count() -> None:
    assert count(with_late_user(one_user(LATE)), one_user(LATE)) == 0
    excluded = replace(RECORD, excluded=frozenset([PSEUDONYMS.user("u3")]))
    assert count(recorded(), one_user("u3"), excluded) == 0
    assert count(recorded(), one_user("stranger")) == 0


def test_row_with_a_replaced_or_unknown_value_counts() -> None:
    """The training saw another value of the row."""
    for version in (TRAINED + 1, -1):
        rows = np.flatnonzero(recorded().data.user == 3)
        snapshot = changed(recorded(version=TRAINED + 2), rows, last_version=version)
        assert count(snapshot, one_user("u3")) == len(rows)


def test_item_of_the_catalog_counts_without_ratings() -> None:
    """The vocabulary has the item's text."""
    snapshot = recorded()
    snapshot = snapshot.take(snapshot.data.item != 5)
    item = snapshot.data.items[5].id
    assert count(snapshot, ForgetSet(items=frozenset([item]))) == 1


@pytest.mark.parametrize(
    "record",
    [None, replace(RECORD, is_self_contained=False), replace(RECORD, version=TRAINED + 1)],
    ids=["no record", "choices of older releases", "older database"],
)
def test_unknown_is_not_zero(record: TrainingRecord | None) -> None:
    assert count(recorded(), one_user("stranger"), record) is None
