"""Tests of the candidate index: its proposals and exact unlearning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.retrieval import cooccurrence
from models.retrieval.candidate_index import CandidateIndex, Event
from models.retrieval.contributions import BUCKET_BITS, BUCKET_SECONDS, MAX_ITEMS
from models.retrieval.cooccurrence import WINDOW, Cooccurrence, pairs_of
from models.retrieval.item_scores import highest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

CATALOG = 40
History = list[tuple[int, float, int]]

times = st.integers(0, 5).map(lambda step: step * BUCKET_SECONDS // 2)
events = st.tuples(st.integers(0, CATALOG - 1), st.sampled_from([1.0, 3.0, 3.5, 5.0]), times)
histories = st.lists(events, max_size=30, unique_by=lambda event: event[0])
user_ids = st.sampled_from(["ada", "bob", "cyd", "Zoë"])
changes = st.lists(st.tuples(user_ids, histories), max_size=12)


def table(users: dict[str, History]) -> Interactions:
    flat = [(u, *event) for u, history in enumerate(users.values()) for event in history]
    columns = np.array(flat, float).reshape(-1, 4).T
    return Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in users),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(CATALOG)),
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        rating=columns[2].astype(np.float32),
        timestamp=columns[3].astype(np.int64),
    )


def proposed(
    index: CandidateIndex, liked: Sequence[int], limit: int, excluded: Collection[int] = ()
) -> list[int]:
    """Return the item indices proposed for a history of these likes, oldest first."""
    history = [Event(item_index, 5.0, second) for second, item_index in enumerate(liked)]
    return index.propose(history, limit, excluded=excluded).item_indices.tolist()


def build(users: dict[str, History]) -> CandidateIndex:
    return CandidateIndex.build(table(users))


@settings(deadline=None)
@given(changes)
def test_any_sequence_of_changes_equals_build_from_final_data(
    sequence: list[tuple[str, History]],
) -> None:
    index = CandidateIndex(CATALOG)
    users: dict[str, History] = {}
    for user_id, history in sequence:
        index.replace_user(user_id, history)
        users[user_id] = history
    expected = build(users)
    assert index.state() == expected.state()
    assert len(index) == len(expected) == sum(map(bool, users.values()))
    for item_indices in ([], [1, 2, 3]):
        assert proposed(index, item_indices, CATALOG, ()) == proposed(
            expected, item_indices, CATALOG, ()
        )


@settings(deadline=None)
@given(st.dictionaries(user_ids, histories, min_size=1), st.data())
def test_removed_user_equals_build_without_user(
    users: dict[str, History], data: st.DataObject
) -> None:
    removed = data.draw(st.sampled_from(sorted(users)))
    index = build(users)
    index.replace_user(removed, [])
    others = {user_id: history for user_id, history in users.items() if user_id != removed}
    assert index.state() == build(others).state()
    assert index.state() == CandidateIndex.build(table(users), exclude_users={removed}).state()


@settings(deadline=None)
@given(st.dictionaries(user_ids, histories), st.integers(0, CATALOG - 1), user_ids, histories)
def test_retired_item_equals_build_without_its_ratings(
    users: dict[str, History], item_index: int, changed: str, history: History
) -> None:
    index = build(users)
    index.retire(item_index)
    index.replace_user(changed, history)
    without = {
        user_id: [event for event in rows if event[0] != item_index]
        for user_id, rows in (users | {changed: history}).items()
    }
    expected = build(without)
    expected.retire(item_index)
    assert index.state() == expected.state()
    assert item_index not in proposed(index, [item_index], CATALOG, ())


def test_state_differs_for_different_data() -> None:
    # The other tests compare states, which a constant state would satisfy.
    states = [
        build({}).state(),
        build({"ada": [(1, 5.0, 1), (2, 5.0, 2)]}).state(),
        build({"bob": [(1, 5.0, 1), (2, 5.0, 2)]}).state(),
        build({"ada": [(1, 5.0, 2), (2, 5.0, 1)]}).state(),
        build({"ada": [(1, 5.0, 1), (2, 1.0, 2)]}).state(),
    ]
    assert len(set(states)) == len(states)


def built_from(*sequences: Sequence[int]) -> Cooccurrence:
    """Return the counts of one user per sequence of item indices, all in the first bucket."""
    liked = np.array(
        [item_index << BUCKET_BITS for row in sequences for item_index in row], np.uint32
    )
    owner = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(row) for row in sequences])
    return Cooccurrence.build(liked, owner)


def test_pairs_span_at_most_window() -> None:
    sequence = range(WINDOW + 2)
    counts = built_from(sequence, sequence[:2])
    neighbors, times = counts.neighbors(0, np.ones(1))
    assert neighbors.tolist() == list(range(1, WINDOW + 1))
    assert times.tolist() == [2] + [1] * (WINDOW - 1)
    liked = np.array(sequence, np.uint32) << BUCKET_BITS
    counts.exchange(pairs_of(liked, np.zeros(len(liked), np.int32)), np.empty(0, np.int64))
    assert counts.state() == built_from(sequence[:2]).state()


def test_likes_of_different_users_are_no_pairs() -> None:
    counts = built_from([1, 2], [3, 4])
    assert counts.neighbors(2, np.ones(1))[0].tolist() == [1]
    assert counts.neighbors(3, np.ones(1))[0].tolist() == [4]


def test_items_liked_together_rank_above_popular_items() -> None:
    likes = {f"fan{n}": [(1, 5.0, 1), (2, 5.0, 2)] for n in range(3)}
    crowd: dict[str, History] = {f"one{n}": [(7, 5.0, 1)] for n in range(50)}
    index = build(likes | crowd)
    assert proposed(index, [], 3, ())[:1] == [7]
    assert proposed(index, [1], 3, {1})[0] == 2


def test_disliked_items_give_no_pairs_and_low_popularity() -> None:
    index = build({f"u{n}": [(1, 5.0, 1), (2, 3.0, 2)] for n in range(5)})
    assert proposed(index, [1], 1, ()) == [1]
    assert index._pairs.neighbors(1, np.ones(1))[0].tolist() == []


def test_ties_are_ordered_by_item_index_and_exclusions_apply() -> None:
    index = build({})
    assert proposed(index, [], 4, {0, 2, 999, -1}) == [1, 3, 4, 5]
    assert proposed(index, [12, 10_000], 2, ()) == [0, 1]
    assert proposed(index, [], 0, ()) == []
    assert len(proposed(index, [], 1000, ())) == CATALOG


def test_item_beyond_catalog_is_proposed_after_rating_or_growth() -> None:
    index = CandidateIndex()
    assert proposed(index, [], 5, ()) == []
    index.replace_user("ada", [(3, 4.0, 1)])
    assert proposed(index, [], 5, ()) == [3]
    index.grow(2)
    assert proposed(index, [], 5, ()) == [3, 0, 1]


@pytest.mark.parametrize(
    ("history", "message"),
    [([(1, 5.0, 1), (1, 4.0, 2)], "item index twice"), ([(-1, 5.0, 1)], "must be from 0 to")],
)
def test_invalid_history_is_rejected_without_changes(history: History, message: str) -> None:
    index = build({"ada": [(1, 5.0, 1)]})
    before = index.state()
    with pytest.raises(ValueError, match=message):
        index.replace_user("ada", history)
    assert index.state() == before


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=30), st.integers(0, 32))
def test_highest_equals_full_sort(scores: list[float], limit: int) -> None:
    score = np.array(scores, float)
    expected = sorted(range(len(scores)), key=lambda item_index: (-scores[item_index], item_index))[
        :limit
    ]
    assert highest(np.arange(len(scores)), score, limit).tolist() == expected


@settings(deadline=None)
@given(st.dictionaries(user_ids, histories), st.integers(0, CATALOG))
def test_history_without_likes_gives_same_proposals_as_empty_history(
    users: dict[str, History], limit: int
) -> None:
    index = build(users)
    expected = index.propose([Event(1, 1.0, 1)], limit, excluded={2})
    popular = index.propose((), limit, excluded={2})
    assert popular.item_indices.tolist() == expected.item_indices.tolist()
    assert popular.scores.tolist() == expected.scores.tolist()


def test_recent_likes_rank_above_old_likes() -> None:
    index = build(
        {
            "old": [(1, 5.0, 0), (2, 5.0, 0)],
            "new": [(1, 5.0, 40 * BUCKET_SECONDS), (3, 5.0, 40 * BUCKET_SECONDS)],
        }
    )
    assert proposed(index, [1], 2, {1}) == [3, 2]
    index.replace_user("new", [])
    assert proposed(index, [1], 1, {1}) == [2]


retirements = st.integers(0, CATALOG - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(user_ids, histories) | retirements, max_size=12))
def test_changes_and_retirements_in_any_order_equal_build_from_retained_data(
    sequence: list[tuple[str, History] | int],
) -> None:
    index = CandidateIndex(CATALOG)
    users: dict[str, History] = {}
    retired: set[int] = set()
    for step in sequence:
        if isinstance(step, int):
            index.retire(step)
            retired.add(step)
        else:
            index.replace_user(*step)
            users[step[0]] = step[1]
    kept = {
        user: [event for event in history if event[0] not in retired]
        for user, history in users.items()
    }
    expected = build({user: history for user, history in kept.items() if history})
    for item_index in retired:
        expected.retire(item_index)
    assert index.state() == expected.state()
    query = [Event(item_index, 5.0, 0) for item_index in (1, 2, 3)]
    actual, expected_proposals = index.propose(query, CATALOG), expected.propose(query, CATALOG)
    assert actual.item_indices.tolist() == expected_proposals.item_indices.tolist()
    assert actual.scores.tolist() == expected_proposals.scores.tolist()


def random_histories(user_count: int, items: int, ratings: int) -> dict[str, History]:
    rng = np.random.default_rng(3)
    return {
        f"u{user}": [
            (int(item_index), float(rng.integers(1, 6)), int(rng.integers(0, 9 * BUCKET_SECONDS)))
            for item_index in rng.choice(items, ratings, replace=False)
        ]
        for user in range(user_count)
    }


def test_build_in_many_parts_equals_single_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Small limits give many parts of users and of items.
    monkeypatch.setattr(cooccurrence, "_BUILD_LIKES", 30)
    monkeypatch.setattr(cooccurrence, "_BUILD_PAIRS", 200)
    users = random_histories(user_count=40, items=CATALOG, ratings=25)
    built, changed = build(users), CandidateIndex(CATALOG)
    for user_id, history in users.items():
        changed.replace_user(user_id, history)
    assert built.state() == changed.state()


def test_proposals_between_changes_equal_those_of_new_build() -> None:
    # Every query fills the caches, so a stale entry would change the next result.
    users = random_histories(user_count=12, items=CATALOG, ratings=20)
    index = build(users)
    query = [Event(item_index, 5.0, 0) for item_index in range(0, CATALOG, 3)]
    for number, (user_id, history) in enumerate(list(users.items())):
        users[user_id] = [] if number % 2 else [*history[:5], (39 - number, 5.0, 10**9)]
        users[user_id] = list({event[0]: event for event in users[user_id]}.values())
        index.replace_user(user_id, users[user_id])
        fresh = build({user: history for user, history in users.items() if history})
        actual, expected_proposals = index.propose(query, CATALOG), fresh.propose(query, CATALOG)
        assert actual.item_indices.tolist() == expected_proposals.item_indices.tolist()
        assert actual.scores.tolist() == expected_proposals.scores.tolist()
        similar, expected = index.similar(3, 10), fresh.similar(3, 10)
        assert similar.scores.tolist() == expected.scores.tolist()


def test_small_cache_gives_same_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    users = random_histories(user_count=12, items=CATALOG, ratings=20)
    query = [Event(item_index, 5.0, 0) for item_index in range(20)]
    expected = build(users).propose(query, CATALOG)
    monkeypatch.setattr(cooccurrence, "_MAX_CACHED", 50)
    index = build(users)
    for _ in range(2):
        assert index.propose(query, CATALOG).scores.tolist() == expected.scores.tolist()
    assert index._pairs._cache.size <= 50


def test_user_with_very_long_history_can_be_removed() -> None:
    length = 20_000
    index = build({"ada": [(1, 5.0, 1), (2, 5.0, 2)]})
    before = index.state()
    index.replace_user("bot", [(item_index, 5.0, item_index) for item_index in range(length)])
    # All but the first likes pair with WINDOW earlier likes; the pair of "ada" is among them.
    pairs = length * WINDOW - WINDOW * (WINDOW + 1) // 2
    assert index.pair_cells() == 2 * pairs
    index.replace_user("bot", [])
    assert index.state() == before


def test_too_large_item_index_is_rejected() -> None:
    index = CandidateIndex()
    with pytest.raises(ValueError, match="from 0 to"):
        index.replace_user("ada", [(MAX_ITEMS, 5.0, 1)])
    index.replace_user("ada", [(MAX_ITEMS // 64, 5.0, 10**12)])
    assert index.propose((), 1).item_indices.tolist() == [MAX_ITEMS // 64]


def test_items_with_attributes_of_likes_rank_first() -> None:
    index = build({"ada": [(1, 5.0, 1)], "bob": [(9, 5.0, 1)]})
    genres = {
        item_index: {"genre": ["Comedy" if item_index % 2 else "Drama"]}
        for item_index in range(CATALOG)
    }
    before = index.state()
    index.describe(genres)
    assert index.state() == before
    comedies = [item_index for item_index in range(CATALOG) if item_index % 2]
    assert proposed(index, [1], len(comedies), {1, 9}) == [*comedies[1:4], *comedies[5:], 0, 2]
    # Without likes there is no profile, so genres have no effect.
    assert proposed(index, [], 4, ()) == [1, 9, 0, 2]
    # New attributes replace the old ones, also if there are none.
    index.describe({**genres, 2: {"genre": ["Comedy"], "mood": ["dark"]}, 3: {}})
    ranked = proposed(index, [1], CATALOG, {1, 9})
    assert ranked.index(5) < ranked.index(2) < ranked.index(0)
    assert ranked.index(3) > ranked.index(0)
