"""Copies and overlays of an index: the original never changes, and answers are those of a build."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.candidate_index import CandidateIndex, Event
from tests.models.retrieval.test_candidate_index import (
    CATALOG,
    History,
    build,
    changes,
    histories,
    proposed,
    user_ids,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

starts = st.dictionaries(user_ids, histories)


def answers(index: CandidateIndex) -> list[list[int] | list[float]]:
    """Return proposals and similar items, with the exact scores."""
    results: list[list[int] | list[float]] = []
    for liked in ([], [1, 2, 3], [5], list(range(10, 30))):
        ranked = index.propose([Event(item, 5.0, 0) for item in liked], CATALOG)
        results += [ranked.item_indices.tolist(), ranked.scores.tolist()]
    for item_index in range(0, CATALOG, 7):
        ranked = index.similar(item_index, CATALOG)
        results += [ranked.item_indices.tolist(), ranked.scores.tolist()]
    return results


def test_each_change_of_the_index_reaches_the_next_query() -> None:
    users: dict[str, History] = {"a": [(1, 5.0, 0), (2, 5.0, 1)], "b": [(2, 5.0, 0), (3, 4.5, 9)]}
    index, expected = build(users), build(users)
    assert answers(index) == answers(expected)
    index.replace_users({"a": [(4, 5.0, 3)]})
    assert answers(index) == answers(build({**users, "a": [(4, 5.0, 3)]}))
    index.retire(3)
    index.grow(CATALOG + 5)
    index.hide([7])
    expected = build({**users, "a": [(4, 5.0, 3)]})
    expected.retire(3)
    expected.grow(CATALOG + 5)
    expected.hide([7])
    assert answers(index) == answers(expected)
    index.half_life = expected.half_life = 1.0
    assert answers(index) == answers(expected)


def test_excluded_items_may_be_an_array() -> None:
    index = build({"a": [(1, 5.0, 0), (2, 5.0, 1)]})
    excluded = [2, CATALOG + 100, -1]
    ranked = index.propose([], CATALOG, excluded=np.array(excluded, np.int64))
    assert ranked.item_indices.tolist() == proposed(index, [], CATALOG, excluded=excluded)


@settings(deadline=None)
@given(starts, changes)
def test_changes_of_a_copy_do_not_reach_the_original(
    users: dict[str, History], sequence: list[tuple[str, History]]
) -> None:
    original = build(users)
    before = original.state(), answers(original)
    changed, final = original.copy(), dict(users)
    for user_id, history in sequence:
        changed.replace_users({user_id: history})
        final[user_id] = history
    changed.retire(3)
    changed.grow(CATALOG + 5)
    assert (original.state(), answers(original)) == before
    expected = build(final)
    expected.retire(3)
    expected.grow(CATALOG + 5)
    assert changed.state() == expected.state()
    assert answers(changed) == answers(expected)


@settings(deadline=None)
@given(starts, changes)
def test_changes_of_the_original_do_not_reach_a_copy(
    users: dict[str, History], sequence: list[tuple[str, History]]
) -> None:
    original = build(users)
    copy = original.copy()
    before = copy.state(), answers(copy)
    for user_id, history in sequence:
        original.replace_user(user_id, history)
    assert (copy.state(), answers(copy)) == before


@settings(deadline=None)
@given(starts, changes)
def test_an_overlay_answers_like_an_index_built_from_the_final_data(
    users: dict[str, History], sequence: list[tuple[str, History]]
) -> None:
    """Also overlays of overlays, of users who were changed before, in any order."""
    original = build(users)
    before = original.state()
    overlaid, final = original, dict(users)
    for user_id, history in sequence:
        overlaid = overlaid.overlaid({user_id: history})
        final[user_id] = history
    assert answers(overlaid) == answers(build(final))
    assert len(overlaid) == len(build(final))
    assert original.state() == before


@settings(deadline=None)
@given(starts, starts)
def test_an_overlay_of_many_users_equals_overlays_of_each(
    users: dict[str, History], replaced: dict[str, History]
) -> None:
    together = build(users).overlaid(replaced)
    assert answers(together) == answers(build({**users, **replaced}))


def test_an_overlay_is_read_only() -> None:
    index = build({"ada": [(1, 5.0, 0)]}).overlaid({"ada": []})
    with pytest.raises(RuntimeError):
        index.replace_user("bob", [(1, 5.0, 0)])
    with pytest.raises(RuntimeError):
        index.state()


def test_an_overlay_reads_only_the_rows_of_the_query() -> None:
    """A deletion costs what the person's likes are, not what the rows of the matrix are."""
    users = {f"u{n}": [(item, 5.0, item) for item in range(n, n + 9)] for n in range(30)}
    index = build(users)
    rows = dict(index._pairs._rows)
    overlaid = index.overlaid({"u3": []})
    assert overlaid._pairs is index._pairs
    assert proposed(overlaid, [4], CATALOG)
    assert overlaid._pair_changes is not None
    assert overlaid._pair_changes.cached_rows() == 1
    assert all(index._pairs._rows[item] is row for item, row in rows.items())


def test_a_removed_item_is_counted_for_no_user() -> None:
    users = {"ada": [(1, 5.0, 0), (2, 5.0, 1), (3, 5.0, 2)], "bob": [(1, 4.0, 0), (3, 5.0, 1)]}
    index = build(users)
    assert sorted(index.raters_of(1)) == ["ada", "bob"]
    assert index.raters_of(2) == ["ada"]
    index.remove_item(1, ["ada", "bob"])
    without = {
        user: [event for event in history if event[0] != 1] for user, history in users.items()
    }
    assert index.state() == build(without).state()


def test_readers_of_one_index_run_beside_each_other() -> None:
    """The cache of decayed rows is shared by threads with different weights."""
    users = {f"u{n}": [(item, 5.0, item) for item in range(n % 20, n % 20 + 20)] for n in range(40)}
    index = build(users)
    index.settle()
    half = index.copy()
    half.half_life = 1.0
    expected = [answers(index), answers(half)]
    failures: list[Sequence[object]] = []

    def read(reader: CandidateIndex, own: list[list[int] | list[float]]) -> None:
        for _ in range(20):
            result = answers(reader)
            if result != own:
                failures.append(result)

    threads = [
        threading.Thread(target=read, args=(reader, own))
        for reader, own in zip((index, half) * 2, expected * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert np.isfinite(expected[0][1]).all()
