"""Answers one recommendation: inputs, captured release, candidates, scores, and a last look.

Work runs on a fixed number of threads behind a bounded number of places. What does not fit is
refused at once, because a queue that grows answers nobody in time.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    GoneError,
    NoReleaseError,
    ReleaseLostError,
    ReplicaNotReadyError,
    UnavailableError,
)
from app.services.recommendation_inputs import read_inputs, recheck
from app.serving.scorers.base import ScoringRequest
from models.requests import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.domain.catalogue import Item
    from app.services.ports import UnitOfWorkFactory
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs, Recheck
    from app.serving.candidates import Candidates, Proposal
    from app.serving.replica import Replica
    from app.serving.twin import Twin
    from app.settings import Settings

#: How often an answer is made anew because somebody was forgotten while it was made.
_RECOMPUTATIONS: Final = 3
#: How often the next release is waited for, when the alias has moved on while one was captured.
_OTHER_RELEASES: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendedItem:
    """One item and the probability that the user likes it; rank 1 is the best."""

    item_id: str
    title: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """An answer, made from exactly one release."""

    user_id: str
    release: str
    items: tuple[RecommendedItem, ...]


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
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._replica = replica
        self._candidates = candidates
        self._limit = settings.candidates
        self._places = threading.BoundedSemaphore(settings.scoring_queue)
        self._executor = ThreadPoolExecutor(
            settings.scoring_threads, thread_name_prefix="lethe-score"
        )

    def close(self) -> None:
        """Let the answers under way end, and take no more."""
        self._executor.shutdown()

    async def recommend(self, user_id: str, n: int, *, exclude_seen: bool) -> Recommendation:
        """Return the best `n` items for the user.

        Raises GoneError, UnknownUserError, NoReleaseError, ReplicaNotReadyError,
        DatabaseUnavailableError, or UnavailableError when all places are taken.
        """
        if not self._places.acquire(blocking=False):
            raise UnavailableError("Too many recommendations are under way. Try again shortly.")
        try:
            future = self._executor.submit(self.answer, user_id, n, exclude_seen=exclude_seen)
        except RuntimeError as error:
            self._places.release()
            raise UnavailableError("This replica is shutting down.") from error
        # The place is held for as long as the thread is busy, also when the caller has gone.
        future.add_done_callback(lambda _: self._places.release())
        answer = await asyncio.wrap_future(future)
        self._replica.right.require()
        return answer

    def answer(
        self,
        user_id: str,
        n: int,
        *,
        exclude_seen: bool,
        before_recheck: Callable[[], None] | None = None,
    ) -> Recommendation:
        """Do the work of `recommend` on this thread; `before_recheck` is for watching it."""
        recomputations = other_releases = 0
        while True:
            inputs, proposal = self._read(user_id, n, exclude_seen=exclude_seen)
            self._replica.right.require()
            release, answer, now = self._attempt(inputs, proposal, n, before_recheck)
            if now.gone:
                raise GoneError
            if now.changed_by_forget:
                recomputations += 1
                if recomputations > _RECOMPUTATIONS:
                    raise UnavailableError(
                        "Deletions arrive faster than this answer can be made. Try again shortly."
                    )
            elif now.alias.live != release:
                other_releases += 1
                if other_releases > _OTHER_RELEASES or not self._replica.await_release(
                    now.alias.live
                ):
                    raise ReplicaNotReadyError
            elif answer is None:
                raise ReleaseLostError
            else:
                self._replica.right.require()
                return answer

    def _read(self, user_id: str, n: int, *, exclude_seen: bool) -> tuple[Inputs, Proposal]:
        """Read everything that the answer may use from one snapshot."""
        with self._uow(write=False) as uow:
            inputs = read_inputs(uow, self._pseudonyms, user_id)
            proposal = self._candidates.propose(
                uow, inputs, max(self._limit, n), exclude_seen=exclude_seen
            )
        return inputs, proposal

    def _attempt(
        self, inputs: Inputs, proposal: Proposal, n: int, before_recheck: Callable[[], None] | None
    ) -> tuple[str, Recommendation | None, Recheck]:
        """Make an answer and look again; unless all is well nothing made of the history is kept.

        A deletion may have been followed between reading the history and keeping what the model
        made of it: then nobody else would drop that again.
        """
        sound = False
        try:
            with self._capture(inputs) as twin:
                release, answer = twin.release_id, _rank(twin, inputs, proposal, n)
            if before_recheck is not None:
                before_recheck()
            now = self._recheck(inputs)
            sound = not (now.gone or now.changed_by_forget)
        finally:
            if not sound:
                self._replica.forget(inputs.user.id)
        return release, answer, now

    @contextmanager
    def _capture(self, inputs: Inputs) -> Iterator[Twin]:
        """Capture the live twin; no release at all is told apart from one not here yet."""
        if inputs.alias.live is None:
            raise NoReleaseError
        if self._replica.live.release_id is None:
            raise ReplicaNotReadyError
        with self._replica.live.capture() as twin:
            yield twin

    def _recheck(self, inputs: Inputs) -> Recheck:
        with self._uow(write=False) as uow:
            return recheck(uow, self._pseudonyms, inputs.user.id, inputs.data_version)


def _rank(twin: Twin, inputs: Inputs, proposal: Proposal, n: int) -> Recommendation | None:
    """Score the proposal with one release; equal scores go by slot, so that answers reproduce.

    None where an engine no longer holds the release: whoever asks looks whether it is still live.
    """
    request = ScoringRequest(
        user_id=inputs.user.id,
        attributes=inputs.user.attributes,
        history=proposal.history,
        candidates=[Candidate(item.slot, item.attributes, item.title) for item in proposal.items],
    )
    try:
        scores = twin.scorer.score(request)
    except ReleaseLostError:
        return None
    scored: list[tuple[float, Item]] = list(zip(scores.tolist(), proposal.items, strict=True))
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1].slot))[:n]
    return Recommendation(
        user_id=inputs.user.id,
        release=twin.release_id,
        items=tuple(
            RecommendedItem(item_id=item.id, title=item.title, score=score, rank=rank)
            for rank, (score, item) in enumerate(best, start=1)
        ),
    )
