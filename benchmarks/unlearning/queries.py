"""Draw fixed queries and candidates that show what a release recommends.

Candidates are PROPOSALS items that the product's first stage proposes to the asking user, as in a
recommendation, and the items that the query is about. The first stage is built from the retained
ratings of the training period. **Quality** queries add the test rows of a user; **exposure**
queries add items that a forgotten person liked, once for the person and once for OTHERS other
people. Items that the asking user ever rated are proposed to no query. All draws have a fixed seed,
so that every run of a benchmark answers the same queries.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.ranking import TOP, hit_share, ndcg
from models.data.samples import Samples
from models.retrieval.candidate_index import CandidateIndex, Event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case

    Floats = NDArray[np.float64]

#: Proposals of the first stage per query that the user never rated.
PROPOSALS: Final = 100
#: Maximum number of quality queries, and of test rows of a user that are ranked.
USERS: Final = 200
TEST_ROWS: Final = 50
#: Maximum number of forgotten people with exposure queries, and of their items.
PEOPLE: Final = 50
TARGETS: Final = 10
#: Other people per forgotten person who are asked about the person's items.
OTHERS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Queries:
    """Candidates of several queries as N rows; `queries` [N] are numbers from 0.

    `marked` [N] bool: a liked test row, or an item of the forgotten person. `people` [N] int64 are
    the users whose data the query is about.
    """

    samples: Samples
    queries: NDArray[np.int64]
    marked: NDArray[np.bool_]
    people: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """The row whose user and history are used, and the candidates."""

    row: Samples
    candidates: Sequence[int]
    marked: Sequence[bool]
    person: int


def draw_queries(case: Case) -> dict[str, Queries]:
    """Return the queries by name: `quality`, `exposure_person` and `exposure_others`."""
    drawing = _Drawing(case)
    person, others = drawing.exposure()
    return {
        "quality": _table(drawing.quality(), case),
        "exposure_person": _table(person, case),
        "exposure_others": _table(others, case),
    }


def ranking_figures(queries: dict[str, Queries], margins: dict[str, Floats]) -> dict[str, Any]:
    """Return the means over queries of NDCG, recall and exposure; None without queries."""
    quality = queries["quality"]
    arguments = quality.queries, margins["quality"], quality.marked
    figures = {
        f"ndcg_at_{TOP}": _mean(ndcg(*arguments)) if len(quality) else None,
        f"recall_at_{TOP}": _mean(hit_share(*arguments)) if len(quality) else None,
    }
    for name in ("exposure_person", "exposure_others"):
        rows = queries[name]
        shares = hit_share(rows.queries, margins[name], rows.marked) if len(rows) else np.empty(0)
        figures[name] = _mean(shares) if len(shares) else None
    return figures


def _mean(values: Floats) -> float:
    return float(np.nanmean(values))


class _Drawing:
    """Draws queries for one case, with one generator in a fixed order."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._generator = np.random.default_rng(0)
        train = case.batch.parts.train
        self._first_stage = first_stage(case)
        data = case.data
        order = np.argsort(data.user, kind="stable")
        bounds = np.searchsorted(data.user[order], np.arange(len(data.users) + 1))
        self._rated = [
            frozenset(data.item[order[first:last]].tolist())
            for first, last in itertools.pairwise(bounds)
        ]
        #: The last training row of each retained user; rows are ordered by user and time.
        self._last = dict(zip(train.user.tolist(), range(len(train)), strict=True))

    def quality(self) -> list[_Query]:
        """Rank the first test rows of users with a liked test row."""
        test = self._case.batch.parts.test
        users = np.unique(test.user[test.label > 0])
        chosen = np.sort(self._generator.permutation(users)[:USERS])
        drawn = []
        for user in chosen.tolist():
            rows = np.flatnonzero(test.user == user)[:TEST_ROWS]
            liked = test.label[rows] > 0
            if liked.any():
                drawn.append(
                    self._query(
                        test.take(rows[:1]), test.candidate[rows].tolist(), liked.tolist(), user
                    )
                )
        return drawn

    def exposure(self) -> tuple[list[_Query], list[_Query]]:
        """Return the queries of forgotten people, and of other people about the same items."""
        person_queries, other_queries = [], []
        for person, row, targets in self._targets():
            if row is not None:
                marked = [True] * len(targets)
                person_queries.append(self._query(row, targets, marked, person))
            other_queries += self._others(person, targets)
        return person_queries, other_queries

    def _targets(self) -> list[tuple[int, Samples | None, list[int]]]:
        """Return forgotten people with the row to ask from and the items; -1: no person."""
        case, forget = self._case, self._case.batch.forget
        items = sorted(case.batch.forgotten_items)
        if items:
            return [
                (-1, None, items[start : start + TARGETS])
                for start in range(0, len(items), TARGETS)
            ]
        pairs = frozenset[tuple[int, int]]().union(*(batch.pairs for batch in case.batches))
        targets: list[tuple[int, Samples | None, list[int]]] = []
        for person in self._generator.permutation(np.unique(forget.user)).tolist():
            rows = np.flatnonzero(forget.user == person)
            row: Samples | None = forget.take(rows[-1:])
            liked = forget.candidate[rows[forget.label[rows] > 0]].tolist()
            if pairs:
                liked = [item for item in liked if (person, item) in pairs]
                row = self._last_row(person)
            history = set() if row is None else set(row.history[0].tolist())
            latest = [item for item in liked if item not in history][-TARGETS:]
            if latest:
                targets.append((person, row, latest))
        return targets[:PEOPLE]

    def _others(self, person: int, targets: Sequence[int]) -> list[_Query]:
        drawn: list[_Query] = []
        for user in self._generator.permutation(sorted(self._last)).tolist():
            if len(drawn) == OTHERS:
                break
            new = [item for item in targets if item not in self._rated[user]]
            row = self._last_row(user)
            if user != person and row is not None and new:
                drawn.append(self._query(row, new, [True] * len(new), person))
        return drawn

    def _last_row(self, user: int) -> Samples | None:
        last = self._last.get(user)
        return None if last is None else self._case.batch.parts.train.take(np.array([last]))

    def _query(
        self, row: Samples, candidates: Sequence[int], marked: Sequence[bool], person: int
    ) -> _Query:
        """Add the proposals of the first stage for the row's history."""
        known: Collection[int] = self._rated[int(row.user[0])] | set(candidates)
        history = [
            Event(item, half_stars / 2, 0)
            for item, half_stars in zip(
                row.history[0].tolist(), row.history_rating[0].tolist(), strict=True
            )
            if item >= 0
        ]
        ranked = self._first_stage.propose(history, PROPOSALS, excluded=known)
        proposals = ranked.item_indices.tolist()
        return _Query(
            row=row,
            candidates=[*candidates, *proposals],
            marked=[*marked, *([False] * len(proposals))],
            person=person,
        )


def first_stage(case: Case) -> CandidateIndex:
    """Return the first stage of retained ratings that are not later than any training row."""
    retained, train = case.batch.retained, case.batch.parts.train
    index = CandidateIndex.build(retained.take(retained.timestamp <= train.timestamp.max()))
    items = enumerate(case.batch.catalog().items)
    index.describe({number: item.attributes for number, item in items})
    return index


def _table(drawn: Sequence[_Query], case: Case) -> Queries:
    """Join queries into rows."""
    sizes = [len(query.candidates) for query in drawn]
    test = case.batch.parts.test
    joined = test.take(np.empty(0, np.int64))
    if drawn:
        rows = [query.row for query in drawn]
        columns = {
            name: np.repeat(np.concatenate([getattr(row, name) for row in rows]), sizes, axis=0)
            for name in Samples.__dataclass_fields__
        }
        candidates = [candidate for query in drawn for candidate in query.candidates]
        joined = Samples(**{**columns, "candidate": np.array(candidates, np.int32)})
    return Queries(
        samples=joined,
        queries=np.repeat(np.arange(len(drawn)), sizes),
        marked=np.array([mark for query in drawn for mark in query.marked], bool),
        people=np.repeat(np.array([query.person for query in drawn], np.int64), sizes),
    )
