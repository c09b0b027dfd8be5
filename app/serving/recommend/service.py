"""Answer recommendation queries on bounded threads, as long as this replica holds its lease.

`answering` computes and repairs the answers.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from app.domain.errors import LetheError, OverloadedError
from app.serving.recommend.answering import Answering
from app.serving.recommend.bounded_executor import BoundedExecutor
from app.serving.recommend.query_reader import QueryReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.recommendations import (
        AttributeFilter,
        Recommendation,
        RecommendationQuery,
        Similar,
    )
    from app.services.pseudonyms import Pseudonyms
    from app.serving.replica.replica import Replica
    from app.serving.retrieval.first_stage import FirstStage
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

#: Threads for work without the model: first-stage answers, similar items and entity tags.
_QUICK_THREADS: Final = 2


class RecommendService:
    """Recommend items to users and visitors; one instance per gateway process."""

    def __init__(
        self,
        settings: Settings,
        uow: UnitOfWorkFactory,
        pseudonyms: Pseudonyms,
        replica: Replica,
        first_stage: FirstStage,
    ) -> None:
        """Create the executors; no thread runs before the first query."""
        self._replica = replica
        self.query_reader = QueryReader(uow, pseudonyms, first_stage, settings.candidates)
        self._answering = Answering(self.query_reader, replica)
        self.answer_all = self._answering.answer_all
        self.answer_from_first_stage = self._answering.answer_from_first_stage
        executor = partial(
            BoundedExecutor, places=settings.scoring_queue, seconds=settings.scoring_backlog
        )
        self.scoring = executor(threads=settings.threads_that_score, name="lethe-score")
        self.quick = executor(threads=_QUICK_THREADS, name="lethe-quick")

    def close(self) -> None:
        """Finish the answers in progress and refuse further queries."""
        self.scoring.close()
        self.quick.close()

    async def recommend(
        self, query: RecommendationQuery, *, deadline: float | None = None
    ) -> Recommendation:
        """Answer one query.

        With a `deadline` in seconds, the first stage answers instead of the model when the model
        takes longer or no place for scoring is free. Raises GoneError, UnknownUserError,
        UnknownItemError, InvalidInputError, NoReleaseError, ReplicaNotReadyError,
        DatabaseUnavailableError, OverloadedError or UnavailableError.
        """
        scored = self.scoring.run(partial(self.answer, query))
        if deadline is None:
            answer = await scored
        else:
            try:
                async with asyncio.timeout(deadline):
                    answer = await scored
            except (TimeoutError, OverloadedError):
                answer = await self.quick.run(partial(self.answer_from_first_stage, query))
        self._replica.answer_lease.require()
        return answer

    async def matching_tag(self, query: RecommendationQuery, tags: AbstractSet[str]) -> str | None:
        """Return the current answer's entity tag if `tags` contains it; raises GoneError."""
        if not tags:
            return None
        try:
            tag = await self.quick.run(partial(self.query_reader.matching_tag, query, tags))
        except OverloadedError:
            return None  # The scoring executor may still have a place for computing the answer.
        self._replica.answer_lease.require()
        return tag

    async def recommend_all(
        self, queries: Sequence[RecommendationQuery]
    ) -> list[Recommendation | LetheError]:
        """Answer several queries jointly; an error takes the place of its query's answer only."""
        work = partial(self.answer_all, queries)
        answers = await self.scoring.run(work, size=max(1, len(queries)))
        self._replica.answer_lease.require()
        return answers

    async def similar(self, item_id: str, n: int, attribute_filter: AttributeFilter) -> Similar:
        """Return items liked by the users who like this item; raises UnknownItemError."""
        work = partial(self._answering.similar, item_id, n, attribute_filter)
        answer = await self.quick.run(work)
        self._replica.answer_lease.require()
        return answer

    def answer(
        self, query: RecommendationQuery, *, before_recheck: Callable[[], None] | None = None
    ) -> Recommendation:
        """Answer one query on the calling thread; tests interfere through `before_recheck`."""
        (answer,) = self.answer_all([query], before_recheck=before_recheck)
        if isinstance(answer, LetheError):
            raise answer
        return answer
