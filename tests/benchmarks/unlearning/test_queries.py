"""Drawn queries: who asks, which candidates are ranked, and what is marked."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.unlearning.protocols import apply_protocol
from benchmarks.unlearning.queries import (
    PROPOSALS,
    Queries,
    draw_queries,
    first_stage,
    ranking_figures,
)
from tests.support.interaction_tables import planted_interactions

DATA = planted_interactions(items=200)


def rated_by(user: int) -> set[int]:
    return set(DATA.item[DATA.user == user].tolist())


def each(queries: Queries) -> list[tuple[int, set[int], set[int], int]]:
    """Return the asking user, the marked and the other candidates, and the person of each query."""
    found = []
    for number in np.unique(queries.queries):
        rows = queries.queries == number
        users = set(queries.samples.user[rows].tolist())
        assert len(users) == 1
        candidates = queries.samples.candidate[rows]
        assert len(np.unique(candidates)) == len(candidates)
        marked = queries.marked[rows]
        found.append(
            (
                users.pop(),
                set(candidates[marked].tolist()),
                set(candidates[~marked].tolist()),
                int(queries.people[rows][0]),
            )
        )
    return found


def test_quality_queries_rank_test_rows_among_items_that_the_user_never_rated() -> None:
    case = apply_protocol(DATA, "paper", 0)
    test = case.batch.parts.test
    queries = each(draw_queries(case)["quality"])
    assert len(queries) > 20
    for user, liked, others, person in queries:
        assert person == user
        rows = test.user == user
        assert liked == set(test.candidate[rows & (test.label > 0)].tolist())
        disliked = set(test.candidate[rows & (test.label == 0)].tolist())
        assert disliked <= others
        assert len(others - disliked) == PROPOSALS
        assert not (others - disliked) & rated_by(user)


def test_exposure_queries_are_about_liked_items_of_forgotten_people() -> None:
    case = apply_protocol(DATA, "paper", 0)
    forget = case.batch.forget
    drawn = draw_queries(case)
    persons, others = each(drawn["exposure_person"]), each(drawn["exposure_others"])
    assert len(persons) > 10
    likes = {}
    for user, targets, negatives, person in persons:
        assert user == person
        liked = forget.candidate[(forget.user == user) & (forget.label > 0)]
        assert targets <= set(liked.tolist())
        assert not negatives & rated_by(user)
        likes[person] = targets
    forgotten = set(forget.user.tolist())
    for user, targets, negatives, person in others:
        assert user not in forgotten
        assert targets <= likes[person]
        assert not (targets | negatives) & rated_by(user)


def test_person_asks_no_query_about_a_forgotten_item() -> None:
    case = apply_protocol(DATA, "items", 0)
    drawn = draw_queries(case)
    assert len(drawn["exposure_person"]) == 0
    queries = each(drawn["exposure_others"])
    assert queries
    for _, targets, _, person in queries:
        assert targets <= set(case.batches[0].items)
        assert person == -1


def test_forgotten_ratings_are_exposed_to_their_person() -> None:
    case = apply_protocol(DATA, "interactions", 0)
    pairs = case.batches[0].pairs
    queries = each(draw_queries(case)["exposure_person"])
    assert queries
    assert all((user, item) in pairs for user, targets, _, _ in queries for item in targets)


def test_first_stage_knows_neither_forgotten_nor_later_ratings() -> None:
    case = apply_protocol(DATA, "paper", 0)
    known = len(first_stage(case))
    train = case.batch.parts.train
    early = case.batch.retained.timestamp <= train.timestamp.max()
    assert known == len(np.unique(case.batch.retained.user[early]))
    assert known < len(np.unique(DATA.user)) - len(case.batches[0].users)


def test_draw_is_the_same_for_every_run() -> None:
    case, again = (apply_protocol(DATA, "paper", 0) for _ in range(2))
    for name, queries in draw_queries(case).items():
        other = draw_queries(again)[name]
        assert np.array_equal(queries.samples.candidate, other.samples.candidate)
        assert np.array_equal(queries.samples.history, other.samples.history)


def test_figures_of_a_release_that_knows_all_answers() -> None:
    drawn = draw_queries(apply_protocol(DATA, "paper", 0))
    margins = {name: queries.marked.astype(float) for name, queries in drawn.items()}
    assert set(ranking_figures(drawn, margins).values()) == {1.0}
    worst = {name: -values for name, values in margins.items()}
    assert max(ranking_figures(drawn, worst).values()) < 0.35
    empty = draw_queries(apply_protocol(DATA, "items", 0))
    margins = {name: queries.marked.astype(float) for name, queries in empty.items()}
    assert ranking_figures(empty, margins)["exposure_person"] is None
    assert ranking_figures(empty, margins)["exposure_others"] == pytest.approx(1)
