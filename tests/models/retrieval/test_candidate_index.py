"""The first stage: what it proposes, and that it forgets exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.retrieval import cooccurrence
from models.retrieval.candidate_index import CandidateIndex, Event, _highest
from models.retrieval.contributions import BUCKET_BITS, BUCKET_SECONDS, MAX_ITEMS
from models.retrieval.cooccurrence import WINDOW, Cooccurrence, pairs_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

CATALOG = 40
History = list[tuple[int, float, int]]

times = st.integers(0, 5).map(lambda step: step * BUCKET_SECONDS // 2)
events = st.tuples(st.integers(0, CATALOG - 1), st.sampled_from([1.0, 3.0, 3.5, 5.0]), times)
histories = st.lists(events, max_size=30, unique_by=lambda event: event[0])
people = st.sampled_from(["ada", "bob", "cyd", "Zoë"])
changes = st.lists(st.tuples(people, histories), max_size=12)


def table(final: dict[str, History]) -> Interactions:
    flat = [(u, *event) for u, history in enumerate(final.values()) for event in history]
    columns = np.array(flat, float).reshape(-1, 4).T
    return Interactions(
        users=tuple(UserRecord(id=user_id) for user_id in final),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(CATALOG)),
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        rating=columns[2].astype(np.float32),
        timestamp=columns[3].astype(np.int64),
    )


def proposed(
    index: CandidateIndex, liked: Sequence[int], limit: int, excluded: Collection[int] = ()
) -> list[int]:
    """Return what is proposed to somebody who liked these, one after the other."""
    history = [Event(item_index, 5.0, when) for when, item_index in enumerate(liked)]
    return index.propose(history, limit, excluded=excluded).item_indices.tolist()


def build(final: dict[str, History]) -> CandidateIndex:
    return CandidateIndex.build(table(final))


@settings(deadline=None)
@given(changes)
def test_any_changes_end_in_the_state_built_from_the_final_data(
    sequence: list[tuple[str, History]],
) -> None:
    index = CandidateIndex(CATALOG)
    final: dict[str, History] = {}
    for user_id, history in sequence:
        index.replace_user(user_id, history)
        final[user_id] = history
    expected = build(final)
    assert index.state() == expected.state()
    assert len(index) == len(expected) == sum(map(bool, final.values()))
    for item_indices in ([], [1, 2, 3]):
        assert proposed(index, item_indices, CATALOG, ()) == proposed(
            expected, item_indices, CATALOG, ()
        )


@settings(deadline=None)
@given(st.dictionaries(people, histories, min_size=1), st.data())
def test_removal_equals_never_having_been(final: dict[str, History], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(final)))
    index = build(final)
    index.replace_user(gone, [])
    others = {user_id: history for user_id, history in final.items() if user_id != gone}
    assert index.state() == build(others).state()
    assert index.state() == CandidateIndex.build(table(final), exclude_users={gone}).state()


@settings(deadline=None)
@given(st.dictionaries(people, histories), st.integers(0, CATALOG - 1), people, histories)
def test_a_retired_item_is_as_though_never_rated(
    final: dict[str, History], item_index: int, late: str, history: History
) -> None:
    index = build(final)
    index.retire(item_index)
    index.replace_user(late, history)
    without = {
        user_id: [event for event in own if event[0] != item_index]
        for user_id, own in (final | {late: history}).items()
    }
    expected = build(without)
    expected.retire(item_index)
    assert index.state() == expected.state()
    assert item_index not in proposed(index, [item_index], CATALOG, ())


def test_the_state_shows_every_person() -> None:
    # Without this the equalities above could hold of a state that says nothing.
    states = [
        build({}).state(),
        build({"ada": [(1, 5.0, 1), (2, 5.0, 2)]}).state(),
        build({"bob": [(1, 5.0, 1), (2, 5.0, 2)]}).state(),
        build({"ada": [(1, 5.0, 2), (2, 5.0, 1)]}).state(),
        build({"ada": [(1, 5.0, 1), (2, 1.0, 2)]}).state(),
    ]
    assert len(set(states)) == len(states)


def built_from(*sequences: Sequence[int]) -> Cooccurrence:
    """Return the counts of one person for each sequence of slots, all in the first bucket."""
    liked = np.array(
        [item_index << BUCKET_BITS for one in sequences for item_index in one], np.uint32
    )
    owner = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(one) for one in sequences])
    return Cooccurrence.build(liked, owner)


def test_pairs_reach_as_far_as_the_window() -> None:
    sequence = range(WINDOW + 2)
    counts = built_from(sequence, sequence[:2])
    neighbors, times = counts.neighbors(0, np.ones(1))
    assert neighbors.tolist() == list(range(1, WINDOW + 1))
    assert times.tolist() == [2] + [1] * (WINDOW - 1)
    liked = np.array(sequence, np.uint32) << BUCKET_BITS
    counts.exchange(pairs_of(liked, np.zeros(len(liked), np.int32)), np.empty(0, np.int64))
    assert counts.state() == built_from(sequence[:2]).state()


def test_pairs_never_cross_from_one_person_to_the_next() -> None:
    counts = built_from([1, 2], [3, 4])
    assert counts.neighbors(2, np.ones(1))[0].tolist() == [1]
    assert counts.neighbors(3, np.ones(1))[0].tolist() == [4]


def test_what_was_liked_together_comes_before_what_is_popular() -> None:
    likes = {f"fan{n}": [(1, 5.0, 1), (2, 5.0, 2)] for n in range(3)}
    crowd: dict[str, History] = {f"one{n}": [(7, 5.0, 1)] for n in range(50)}
    index = build(likes | crowd)
    assert proposed(index, [], 3, ())[:1] == [7]
    assert proposed(index, [1], 3, {1})[0] == 2


def test_disliked_items_make_no_pairs_and_little_popularity() -> None:
    index = build({f"u{n}": [(1, 5.0, 1), (2, 3.0, 2)] for n in range(5)})
    assert proposed(index, [1], 1, ()) == [1]
    assert index._pairs.neighbors(1, np.ones(1))[0].tolist() == []


def test_ties_go_by_item_index_and_limits_and_exclusions_hold() -> None:
    index = build({})
    assert proposed(index, [], 4, {0, 2, 999, -1}) == [1, 3, 4, 5]
    assert proposed(index, [12, 10_000], 2, ()) == [0, 1]
    assert proposed(index, [], 0, ()) == []
    assert len(proposed(index, [], 1000, ())) == CATALOG


def test_item_indices_beyond_the_catalog_are_proposed_once_rated_or_grown() -> None:
    index = CandidateIndex()
    assert proposed(index, [], 5, ()) == []
    index.replace_user("ada", [(3, 4.0, 1)])
    assert proposed(index, [], 5, ()) == [3]
    index.grow(2)
    assert proposed(index, [], 5, ()) == [3, 0, 1]


@pytest.mark.parametrize("history", [[(1, 5.0, 1), (1, 4.0, 2)], [(-1, 5.0, 1)]])
def test_an_impossible_history_is_refused_and_changes_nothing(history: History) -> None:
    index = build({"ada": [(1, 5.0, 1)]})
    before = index.state()
    with pytest.raises(ValueError, match="every slot once"):
        index.replace_user("ada", history)
    assert index.state() == before


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=30), st.integers(0, 32))
def test_the_highest_are_those_of_a_full_sort(scores: list[float], limit: int) -> None:
    score = np.array(scores, float)
    expected = sorted(range(len(scores)), key=lambda item_index: (-scores[item_index], item_index))[
        :limit
    ]
    assert _highest(np.arange(len(scores)), score, limit).tolist() == expected


@settings(deadline=None)
@given(st.dictionaries(people, histories), st.integers(0, CATALOG))
def test_popular_items_are_those_proposed_to_somebody_without_likes(
    final: dict[str, History], limit: int
) -> None:
    index = build(final)
    expected = index.propose([Event(1, 1.0, 1)], limit, excluded={2})
    popular = index.popular(limit, excluded={2})
    assert popular.item_indices.tolist() == expected.item_indices.tolist()
    assert popular.scores.tolist() == expected.scores.tolist()


def test_what_was_liked_lately_comes_before_what_was_liked_long_ago() -> None:
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
@given(st.lists(st.tuples(people, histories) | retirements, max_size=12))
def test_changes_and_retirements_in_any_order_end_in_the_state_of_what_is_retained(
    sequence: list[tuple[str, History] | int],
) -> None:
    index = CandidateIndex(CATALOG)
    final: dict[str, History] = {}
    retired: set[int] = set()
    for step in sequence:
        if isinstance(step, int):
            index.retire(step)
            retired.add(step)
        else:
            index.replace_user(*step)
            final[step[0]] = step[1]
    kept = {
        user: [event for event in own if event[0] not in retired] for user, own in final.items()
    }
    expected = build({user: own for user, own in kept.items() if own})
    for item_index in retired:
        expected.retire(item_index)
    assert index.state() == expected.state()
    told = [Event(item_index, 5.0, 0) for item_index in (1, 2, 3)]
    ours, theirs = index.propose(told, CATALOG), expected.propose(told, CATALOG)
    assert ours.item_indices.tolist() == theirs.item_indices.tolist()
    assert ours.scores.tolist() == theirs.scores.tolist()


def made_up(users: int, items: int, ratings: int) -> dict[str, History]:
    rng = np.random.default_rng(3)
    return {
        f"u{user}": [
            (int(item_index), float(rng.integers(1, 6)), int(rng.integers(0, 9 * BUCKET_SECONDS)))
            for item_index in rng.choice(items, ratings, replace=False)
        ]
        for user in range(users)
    }


def test_a_build_in_many_parts_is_the_state_of_one_change_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So small that people are split from people, and slots from slots, again and again.
    monkeypatch.setattr(cooccurrence, "_BUILD_ITEMS", 30)
    monkeypatch.setattr(cooccurrence, "_BUILD_PAIRS", 200)
    people = made_up(users=40, items=CATALOG, ratings=25)
    built, changed = build(people), CandidateIndex(CATALOG)
    for user_id, history in people.items():
        changed.replace_user(user_id, history)
    assert built.state() == changed.state()


def test_answers_between_changes_are_those_of_a_fresh_build() -> None:
    # Every answer fills what is kept between queries, so anything left stale shows in the next.
    final = made_up(users=12, items=CATALOG, ratings=20)
    index = build(final)
    told = [Event(item_index, 5.0, 0) for item_index in range(0, CATALOG, 3)]
    for number, (user_id, history) in enumerate(list(final.items())):
        final[user_id] = [] if number % 2 else [*history[:5], (39 - number, 5.0, 10**9)]
        final[user_id] = list({event[0]: event for event in final[user_id]}.values())
        index.replace_user(user_id, final[user_id])
        fresh = build({user: own for user, own in final.items() if own})
        ours, theirs = index.propose(told, CATALOG), fresh.propose(told, CATALOG)
        assert ours.item_indices.tolist() == theirs.item_indices.tolist()
        assert ours.scores.tolist() == theirs.scores.tolist()
        near, expected = index.similar(3, 10), fresh.similar(3, 10)
        assert near.scores.tolist() == expected.scores.tolist()


def test_few_kept_rows_answer_as_many_do(monkeypatch: pytest.MonkeyPatch) -> None:
    people = made_up(users=12, items=CATALOG, ratings=20)
    told = [Event(item_index, 5.0, 0) for item_index in range(20)]
    expected = build(people).propose(told, CATALOG)
    monkeypatch.setattr(cooccurrence, "_KEPT", 50)
    index = build(people)
    for _ in range(2):
        assert index.propose(told, CATALOG).scores.tolist() == expected.scores.tolist()
    assert index._pairs._kept <= 50


def test_somebody_with_a_very_long_history_comes_and_goes() -> None:
    length = 20_000
    index = build({"ada": [(1, 5.0, 1), (2, 5.0, 2)]})
    before = index.state()
    index.replace_user("bot", [(item_index, 5.0, item_index) for item_index in range(length)])
    # Each like but the first few has WINDOW before it; ada's pair is one of the bot's.
    pairs = length * WINDOW - WINDOW * (WINDOW + 1) // 2
    assert index.pair_cells() == 2 * pairs
    index.replace_user("bot", [])
    assert index.state() == before


def test_item_indices_that_do_not_fit_are_refused() -> None:
    index = CandidateIndex()
    with pytest.raises(ValueError, match="from 0 to"):
        index.replace_user("ada", [(MAX_ITEMS, 5.0, 1)])
    index.replace_user("ada", [(MAX_ITEMS // 64, 5.0, 10**12)])
    assert index.popular(1).item_indices.tolist() == [MAX_ITEMS // 64]


def test_items_like_those_that_were_liked_come_first() -> None:
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
    # Nobody's likes, nobody's profile: what is popular, whatever its genre.
    assert proposed(index, [], 4, ()) == [1, 9, 0, 2]
    # An item that is described anew is judged by what it is now; one without attributes by none.
    index.describe({**genres, 2: {"genre": ["Comedy"], "mood": ["dark"]}, 3: {}})
    found = proposed(index, [1], CATALOG, {1, 9})
    assert found.index(5) < found.index(2) < found.index(0)
    assert found.index(3) > found.index(0)
