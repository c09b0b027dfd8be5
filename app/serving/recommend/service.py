"""Answer recommendation queries: read inputs, score with the live release, recheck, retry.

An answer is sent only if, after scoring, no deletion was accepted since its inputs were read, its
release is still live, and this replica still holds its lease.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    GoneError,
    LetheError,
    NoReleaseError,
    OverloadedError,
    ReleaseLostError,
    ReplicaNotReadyError,
    UnavailableError,
)
from app.domain.recommendations import Similar, SimilarItem
from app.services.validation import normal_item_id
from app.serving.recommend.bounded_executor import BoundedExecutor
from app.serving.recommend.query_reader import QueryReader
from app.serving.recommend.ranking import PreparedQuery, rank_with_first_stage, rank_with_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager

    from app.domain.recommendations import AttributeFilter, Recommendation, RecommendationQuery
    from app.domain.releases import Alias
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Recheck
    from app.serving.replica.live_model import LoadedModel
    from app.serving.replica.replica import Replica
    from app.serving.retrieval.first_stage import FirstStage
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

#: Retries per answer after a deletion was accepted while the answer was computed.
_MAX_FORGET_RETRIES: Final = 3
#: Retries per answer after the alias moved to another release while the answer was computed.
_MAX_RELEASE_RETRIES: Final = 1
#: Threads for work without the model: first-stage answers, similar items and entity tags.
_QUICK_THREADS: Final = 2


@dataclass(slots=True)
class _RetryCounts:
    """Count the retries of one answer, and raise UnavailableError beyond the limit."""

    after_forget: int = 0
    after_release: int = 0

    def count_forget(self) -> None:
        self.after_forget += 1
        if self.after_forget > _MAX_FORGET_RETRIES:
            raise UnavailableError(
                "Deletions arrive faster than this answer can be computed. Try again shortly."
            )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The outcome of computing answers once; `answers` is None if the release was lost."""

    release: str | None
    answers: list[Recommendation | LetheError] | None
    recheck: Recheck


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
        self._query_reader = QueryReader(uow, pseudonyms, first_stage, settings.candidates)
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
            tag = await self.quick.run(partial(self._query_reader.matching_tag, query, tags))
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
        work = partial(self._answer_similar, item_id, n, attribute_filter)
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

    def answer_all(
        self,
        queries: Sequence[RecommendationQuery],
        *,
        before_recheck: Callable[[], None] | None = None,
    ) -> list[Recommendation | LetheError]:
        """Answer several queries on the calling thread."""
        retries = _RetryCounts()
        while True:
            read = self._query_reader.read(queries)
            prepared = [query for query in read if isinstance(query, PreparedQuery)]
            if not prepared:
                return [error for error in read if isinstance(error, LetheError)]
            self._replica.answer_lease.require()
            attempt = self._attempt(prepared, before_recheck)
            recheck = attempt.recheck
            if recheck.changed_by_forget and len(recheck.gone) < len(prepared):
                retries.count_forget()
            elif attempt.release not in {None, recheck.alias.live}:
                self._await_release(recheck.alias, retries)
            else:
                break
        if attempt.answers is None:
            raise ReleaseLostError
        self._replica.answer_lease.require()
        answers = iter(attempt.answers)
        return [next(answers) if isinstance(query, PreparedQuery) else query for query in read]

    def answer_from_first_stage(self, query: RecommendationQuery) -> Recommendation:
        """Answer one query in the first stage's order, on the calling thread."""
        retries = _RetryCounts()
        while True:
            (prepared,) = self._query_reader.read([replace(query, explain=False)])
            if isinstance(prepared, LetheError):
                raise prepared
            recheck = self._query_reader.recheck([prepared])
            if recheck.gone:
                raise GoneError
            if not recheck.changed_by_forget:
                return rank_with_first_stage(prepared)
            retries.count_forget()

    def _answer_similar(self, item_id: str, n: int, attribute_filter: AttributeFilter) -> Similar:
        item_id = normal_item_id(item_id)
        retries = _RetryCounts()
        while True:
            pairs, version = self._query_reader.similar(item_id, n, attribute_filter)
            if not self._query_reader.is_changed_by_forget(version):
                items = tuple(
                    SimilarItem(item_id=item.id, title=item.title, score=score, rank=rank)
                    for rank, (item, score) in enumerate(pairs, start=1)
                )
                return Similar(item_id=item_id, items=items, data_version=version)
            retries.count_forget()

    def _attempt(
        self, prepared: Sequence[PreparedQuery], before_recheck: Callable[[], None] | None
    ) -> _Attempt:
        """Compute answers and recheck; drop the states of these users unless nothing changed.

        Race: the replica may follow a deletion after the history was read but before the scorer
        keeps the states computed from that history. Following the change log would then find no
        states to drop, so the states are dropped here, also when the recheck itself fails.
        """
        unchanged = False
        try:
            release, answers = self._compute(prepared)
            if before_recheck is not None:
                before_recheck()
            recheck = self._query_reader.recheck(prepared)
            unchanged = not (recheck.gone or recheck.changed_by_forget)
        finally:
            if not unchanged:
                for query in prepared:
                    self._replica.forget(query.inputs.user.id)
        if answers is not None:
            answers = [
                GoneError() if query.inputs.user.id in recheck.gone else answer
                for query, answer in zip(prepared, answers, strict=True)
            ]
        return _Attempt(release, answers, recheck)

    def _compute(
        self, prepared: Sequence[PreparedQuery]
    ) -> tuple[str | None, list[Recommendation | LetheError] | None]:
        """Return the release that scored, and the answers; None if the release was lost."""
        alias = prepared[0].inputs.alias
        is_unscored = [
            query.unknown or (alias.live is None and query.query.fallback) for query in prepared
        ]
        to_score = [
            query for query, unscored in zip(prepared, is_unscored, strict=True) if not unscored
        ]
        release: str | None = None
        model_answers: Iterator[Recommendation] = iter(())
        if to_score:
            with self._capture(alias) as loaded_model:
                release = loaded_model.release_id
                tier_size = self._query_reader.tier_size
                try:
                    model_answers = iter(rank_with_model(loaded_model, to_score, tier_size))
                except ReleaseLostError:
                    return release, None
        return release, [
            rank_with_first_stage(query) if unscored else next(model_answers)
            for query, unscored in zip(prepared, is_unscored, strict=True)
        ]

    def _await_release(self, alias: Alias, retries: _RetryCounts) -> None:
        """Wait until this replica has switched to the live release.

        Raises ReplicaNotReadyError if the release does not arrive.
        """
        retries.after_release += 1
        if retries.after_release > _MAX_RELEASE_RETRIES or not self._replica.await_release(
            alias.live
        ):
            raise ReplicaNotReadyError

    def _capture(self, alias: Alias) -> AbstractContextManager[LoadedModel]:
        """Return a context that holds the live model.

        Raises NoReleaseError if the installation has no live release, and ReplicaNotReadyError if
        this replica has not loaded the live release yet.
        """
        if alias.live is None:
            raise NoReleaseError
        if self._replica.live.release_id is None:
            raise ReplicaNotReadyError
        return self._replica.live.capture()
