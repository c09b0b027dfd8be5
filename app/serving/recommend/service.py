"""Answers questions for recommendations: inputs, captured release, candidates, scores, last look.

Knows how often to look again and when to give up; the order of items is made in `ranking`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
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
from app.serving.recommend.capacity import Capacity
from app.serving.recommend.query_reader import QueryReader
from app.serving.recommend.ranking import Asked, by_first_stage, by_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.recommendations import AttributeFilter, Recommendation, RecommendationQuery
    from app.domain.releases import Alias
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Recheck
    from app.serving.replica.live_model import ServingModel
    from app.serving.replica.replica import Replica
    from app.serving.retrieval.first_stage import Candidates
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

#: How often an answer is made anew because somebody was forgotten while it was made.
_RECOMPUTATIONS: Final = 3
#: How often the next release is waited for, when the alias has moved on while one was captured.
_OTHER_RELEASES: Final = 1
#: Threads for what asks no model: the first stage's own order, and similar items.
_QUICK_THREADS: Final = 2


@dataclass(slots=True)
class _Attempts:
    """Counts how often an answer was made in vain, and gives up in the end."""

    recomputations: int = 0
    other_releases: int = 0

    def forgotten(self) -> None:
        """Note that somebody was forgotten meanwhile."""
        self.recomputations += 1
        if self.recomputations > _RECOMPUTATIONS:
            raise UnavailableError(
                "Deletions arrive faster than this answer can be made. Try again shortly."
            )


@dataclass(frozen=True, slots=True)
class _Made:
    """What one attempt gave; no answers where the release was lost meanwhile."""

    release: str | None
    answers: list[Recommendation | LetheError] | None
    now: Recheck


class RecommendService:
    """The use case `recommend`; one per process."""

    def __init__(
        self,
        settings: Settings,
        uow: UnitOfWorkFactory,
        pseudonyms: Pseudonyms,
        replica: Replica,
        candidates: Candidates,
    ) -> None:
        """Make the threads that score."""
        self._replica = replica
        self._query_reader = QueryReader(uow, pseudonyms, candidates, settings.candidates)
        self.scoring = Capacity(
            threads=settings.threads_that_score, places=settings.scoring_queue, name="lethe-score"
        )
        self.quick = Capacity(
            threads=_QUICK_THREADS, places=settings.scoring_queue, name="lethe-quick"
        )

    def close(self) -> None:
        """Let the answers under way end, and take no more."""
        self.scoring.close()
        self.quick.close()

    async def recommend(
        self, query: RecommendationQuery, *, deadline: float | None = None
    ) -> Recommendation:
        """Answer one question.

        What the model has not answered within `deadline` seconds, or cannot for lack of a place,
        is answered in the first stage's order. Raises GoneError, UnknownUserError,
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
        self._replica.right.require()
        return answer

    async def held(self, query: RecommendationQuery, tags: AbstractSet[str]) -> str | None:
        """Return the present answer's tag where the caller's `tags` hold it; raises GoneError."""
        if not tags:
            return None
        try:
            tag = await self.quick.run(partial(self._query_reader.held, query, tags))
        except OverloadedError:
            return None  # Then the answer is made: there may be a place for that.
        self._replica.right.require()
        return tag

    async def recommend_all(
        self, queries: Sequence[RecommendationQuery]
    ) -> list[Recommendation | LetheError]:
        """Answer several questions jointly; each has its own answer or its own error."""
        work = partial(self.answer_all, queries)
        answers = await self.scoring.run(work, weight=len(queries))
        self._replica.right.require()
        return answers

    async def similar(self, item_id: str, n: int, wanted: AttributeFilter) -> Similar:
        """Return the items that are liked by those who like this one; raises UnknownItemError."""
        answer = await self.quick.run(partial(self.answer_similar, item_id, n, wanted))
        self._replica.right.require()
        return answer

    def answer(
        self, query: RecommendationQuery, *, before_recheck: Callable[[], None] | None = None
    ) -> Recommendation:
        """Do the work of `recommend` on this thread; `before_recheck` is for watching it."""
        (found,) = self.answer_all([query], before_recheck=before_recheck)
        if isinstance(found, LetheError):
            raise found
        return found

    def answer_all(
        self,
        queries: Sequence[RecommendationQuery],
        *,
        before_recheck: Callable[[], None] | None = None,
    ) -> list[Recommendation | LetheError]:
        """Do the work of `recommend_all` on this thread."""
        attempts = _Attempts()
        while True:
            read = self._query_reader.read(queries)
            asked = [one for one in read if isinstance(one, Asked)]
            if not asked:
                return [one for one in read if isinstance(one, LetheError)]
            self._replica.right.require()
            made = self._attempt(asked, before_recheck)
            if made.now.changed_by_forget and len(made.now.gone) < len(asked):
                attempts.forgotten()
            elif made.release not in {None, made.now.alias.live}:
                self._await(made.now.alias, attempts)
            else:
                break
        if made.answers is None:
            raise ReleaseLostError
        self._replica.right.require()
        ready = iter(made.answers)
        return [next(ready) if isinstance(one, Asked) else one for one in read]

    def answer_from_first_stage(self, query: RecommendationQuery) -> Recommendation:
        """Answer in the first stage's order, on this thread."""
        attempts = _Attempts()
        while True:
            (asked,) = self._query_reader.read([replace(query, explain=False)])
            if isinstance(asked, LetheError):
                raise asked
            now = self._query_reader.recheck([asked])
            if now.gone:
                raise GoneError
            if not now.changed_by_forget:
                return by_first_stage(asked)
            attempts.forgotten()

    def answer_similar(self, item_id: str, n: int, wanted: AttributeFilter) -> Similar:
        """Do the work of `similar` on this thread."""
        attempts = _Attempts()
        while True:
            pairs, version = self._query_reader.similar(item_id, n, wanted)
            if not self._query_reader.forgotten_since(version):
                items = tuple(
                    SimilarItem(item_id=item.id, title=item.title, score=score, rank=rank)
                    for rank, (item, score) in enumerate(pairs, start=1)
                )
                return Similar(item_id=item_id, items=items, data_version=version)
            attempts.forgotten()

    def _attempt(self, asked: Sequence[Asked], before_recheck: Callable[[], None] | None) -> _Made:
        """Make answers and look again; unless all is well nothing made of a history is kept.

        A deletion may have been followed between reading the history and keeping what the model
        made of it: then nobody else would drop that again.
        """
        sound = False
        try:
            release, answers = self._answers(asked)
            if before_recheck is not None:
                before_recheck()
            now = self._query_reader.recheck(asked)
            sound = not (now.gone or now.changed_by_forget)
        finally:
            if not sound:
                for one in asked:
                    self._replica.forget(one.inputs.user.id)
        if answers is not None:
            answers = [
                GoneError() if one.inputs.user.id in now.gone else answer
                for one, answer in zip(asked, answers, strict=True)
            ]
        return _Made(release, answers, now)

    def _answers(
        self, asked: Sequence[Asked]
    ) -> tuple[str | None, list[Recommendation | LetheError] | None]:
        """Return the release asked, and the answers; None where the release is lost meanwhile."""
        alias = asked[0].inputs.alias
        plain = [one.unknown or (alias.live is None and one.query.fallback) for one in asked]
        scored = [one for one, without in zip(asked, plain, strict=True) if not without]
        release: str | None = None
        of_release: Iterator[Recommendation] = iter(())
        if scored:
            with self._capture(alias) as serving_model:
                release = serving_model.release_id
                try:
                    of_release = iter(by_model(serving_model, scored, self._query_reader.tier))
                except ReleaseLostError:
                    return release, None
        return release, [
            by_first_stage(one) if without else next(of_release)
            for one, without in zip(asked, plain, strict=True)
        ]

    def _await(self, alias: Alias, attempts: _Attempts) -> None:
        """Wait for the live release to arrive here; raises ReplicaNotReadyError."""
        attempts.other_releases += 1
        if attempts.other_releases > _OTHER_RELEASES or not self._replica.await_release(alias.live):
            raise ReplicaNotReadyError

    @contextmanager
    def _capture(self, alias: Alias) -> Iterator[ServingModel]:
        """Capture the live twin; no release at all is told apart from one not here yet."""
        if alias.live is None:
            raise NoReleaseError
        if self._replica.live.release_id is None:
            raise ReplicaNotReadyError
        with self._replica.live.capture() as serving_model:
            yield serving_model
