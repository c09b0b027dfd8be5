"""Collect the margins of releases on all rows that a benchmark measures.

If batches are independent, each batch has a release, and each row is answered by the release of its
owner (see `protocols.owners`); otherwise the last release answers all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.unlearning.measures import sample_margins
from benchmarks.unlearning.protocols import owners
from benchmarks.unlearning.queries import Queries, draw_queries, ranking_figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.recommender.base import Recommender

    Floats = NDArray[np.float64]

FORGET: Final = "forget"
TEST: Final = "test"


class Answers:
    """Margins by name of a set of rows: `forget`, `test` and, with `ranking`, the queries."""

    def __init__(self, case: Case, *, ranking: bool = True) -> None:
        batch = case.batch
        self._case = case
        self._queries: dict[str, Queries] = draw_queries(case) if ranking else {}
        self._rows: dict[str, tuple[Samples, Interactions]] = {
            FORGET: (batch.forget, case.data),
            TEST: (batch.parts.test, batch.retained),
        }
        people: dict[str, NDArray[Any]] = {
            FORGET: batch.forget.user,
            TEST: batch.parts.test.user,
        }
        for name, query in self._queries.items():
            self._rows[name] = (query.samples, case.data)
            people[name] = query.people
        self._owners = {name: owners(case, users) for name, users in people.items()}
        self.margins: dict[str, Floats] = {
            name: np.full(len(samples), np.nan) for name, (samples, _) in self._rows.items()
        }

    def collect(self, recommender: Recommender, batch: int | None = None) -> None:
        """Store the answers of a release to all rows, or to the rows that a batch owns.

        Raises DivergedError for NaN or infinity.
        """
        for name, (samples, data) in self._rows.items():
            rows = np.arange(len(samples))
            if batch is not None:
                rows = np.flatnonzero(self._owners[name] == batch)
            if len(rows):
                self.margins[name][rows] = sample_margins(recommender, samples.take(rows), data)

    def ranking(self) -> dict[str, Any]:
        """Return the figures of the queries."""
        return ranking_figures(self._queries, self.margins)
