"""Compute answers on the calling thread, and repair answers that a deletion overtakes.

An answer is sent only if, in a snapshot of the database that was taken after scoring, it uses and
names nothing forgotten, its release is live, and this replica holds its lease. If a deletion was
accepted meanwhile, the answer is repaired instead of being computed again:

1. The first stage proposes again, and only new candidates are scored.
2. If another deletion is accepted meanwhile, the first stage proposes again, and candidates without
   a score are left out. This takes milliseconds, so a slow model cannot be outpaced.
3. After some repetitions, suppressed candidates are left out in the snapshot of the last check.

Only a deletion of the asker's own data requires scores from the shortened history.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import (
    GoneError,
    LetheError,
    NoReleaseError,
    ReleaseLostError,
    ReplicaNotReadyError,
)
from app.domain.recommendations import Similar, SimilarItem
from app.services.validation import normal_item_id
from app.serving.recommend.draft import Draft, score
from app.serving.recommend.ranking import rank_with_first_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from app.domain.recommendations import AttributeFilter, Recommendation, RecommendationQuery
    from app.domain.releases import Alias
    from app.services.recommendation_inputs import Recheck
    from app.serving.recommend.query_reader import QueryReader
    from app.serving.recommend.ranking import PreparedQuery
    from app.serving.replica.live_model import LoadedModel
    from app.serving.replica.replica import Replica

#: Repairs of one answer before the last one, which reads no new proposal.
_MAX_REPAIRS: Final = 8
#: Retries per answer after the alias moved to another release while the answer was computed.
_MAX_RELEASE_RETRIES: Final = 1


class Answering:
    """Answer queries with the live release of a replica. Thread-safe."""

    def __init__(self, query_reader: QueryReader, replica: Replica) -> None:
        """Take the reader of all inputs, and the replica that holds the live release."""
        self._query_reader = query_reader
        self._replica = replica

    def answer_all(
        self,
        queries: Sequence[RecommendationQuery],
        *,
        before_recheck: Callable[[], None] | None = None,
    ) -> list[Recommendation | LetheError]:
        """Answer several queries jointly; tests interfere through `before_recheck`."""
        for _ in range(_MAX_RELEASE_RETRIES + 1):
            drafts = [
                read if isinstance(read, LetheError) else Draft(read)
                for read in self._query_reader.read(queries)
            ]
            alias = self._complete(drafts, before_recheck)
            if alias is None:
                # Errors say nothing that the release knows, so they need no lease.
                if any(isinstance(draft, Draft) for draft in drafts):
                    self._replica.answer_lease.require()
                return [self._result(draft) for draft in drafts]
            if not self._replica.await_release(alias.live):
                break
        raise ReplicaNotReadyError

    def answer_from_first_stage(self, query: RecommendationQuery) -> Recommendation:
        """Answer one query in the first stage's order."""
        query = replace(query, explain=False)
        for _ in range(_MAX_REPAIRS):
            prepared = _or_raise(self._query_reader.read([query])[0])
            recheck = self._query_reader.recheck([prepared])
            if recheck.gone:
                raise GoneError
            if not recheck.is_overtaken:
                return rank_with_first_stage(prepared)
        used_ids = prepared.proposal.usable.used_ids
        _, (withdrawn,) = self._query_reader.withdraw([prepared], [used_ids])
        return rank_with_first_stage(_or_raise(withdrawn))

    def similar(self, item_id: str, n: int, attribute_filter: AttributeFilter) -> Similar:
        """Return items liked by the users who like this item; raises UnknownItemError."""
        item_id = normal_item_id(item_id)
        withdrawn: set[str] | None = None
        for _ in range(_MAX_REPAIRS):
            pairs, version = self._query_reader.similar(item_id, n, attribute_filter)
            withdrawn = self._query_reader.withdrawn(version, [item.id for item, _ in pairs])
            if withdrawn is None:
                break
        pairs = [(item, value) for item, value in pairs if item.id not in (withdrawn or ())]
        items = tuple(
            SimilarItem(item_id=item.id, title=item.title, score=value, rank=rank)
            for rank, (item, value) in enumerate(pairs, start=1)
        )
        tag = self._query_reader.similar_tag(item_id, n, attribute_filter, items)
        return Similar(item_id=item_id, items=items, tag=tag)

    def _complete(
        self, drafts: list[Draft | LetheError], before_recheck: Callable[[], None] | None
    ) -> Alias | None:
        """Score and repair the drafts until nothing overtakes them; replace failed ones by errors.

        Return the alias if it moved to another release than the one that scored.
        """
        repairs = 0
        while open_drafts := [draft for draft in drafts if isinstance(draft, Draft)]:
            self._replica.answer_lease.require()
            is_last = repairs >= _MAX_REPAIRS
            with self._states_dropped_unless_current(open_drafts) as outcome:
                release, is_lost = self._score(open_drafts)
                if before_recheck is not None:
                    before_recheck()
                recheck = self._recheck(drafts, is_last=is_last)
                outcome.append(recheck)
            if release not in {None, recheck.alias.live}:
                return recheck.alias
            if is_lost:
                raise ReleaseLostError
            if is_last or not recheck.is_overtaken:
                break
            repairs += 1
            self._repropose(drafts, only_drop=repairs > 1)
        return None

    def _recheck(self, drafts: list[Draft | LetheError], *, is_last: bool) -> Recheck:
        """Read a new snapshot, and put GoneError in the place of forgotten askers.

        The last check also removes what is suppressed in this snapshot, so no check follows.
        """
        places = [place for place, draft in enumerate(drafts) if isinstance(draft, Draft)]
        open_drafts = [draft for draft in drafts if isinstance(draft, Draft)]
        prepared = [draft.prepared for draft in open_drafts]
        if not is_last:
            recheck = self._query_reader.recheck(prepared)
            for place, query in zip(places, prepared, strict=True):
                if query.inputs.user.id in recheck.gone:
                    drafts[place] = GoneError()
            return recheck
        used_ids = [draft.used_ids for draft in open_drafts]
        recheck, withdrawn = self._query_reader.withdraw(prepared, used_ids)
        _take_over(drafts, places, withdrawn, only_drop=True)
        return recheck

    def _repropose(self, drafts: list[Draft | LetheError], *, only_drop: bool) -> None:
        """Read all inputs and proposals of the drafts again, from one snapshot."""
        places = [place for place, draft in enumerate(drafts) if isinstance(draft, Draft)]
        queries = [draft.prepared.query for draft in drafts if isinstance(draft, Draft)]
        if queries:
            _take_over(drafts, places, self._query_reader.read(queries), only_drop=only_drop)

    def _result(self, draft: Draft | LetheError) -> Recommendation | LetheError:
        if isinstance(draft, LetheError):
            return draft
        answer = draft.answer(self._query_reader.tier_size)
        # An answer that lost candidates is valid, but not the one to keep.
        tag = None
        if not draft.only_drops:
            tag = self._query_reader.tag_of(draft.prepared, answer.release)
        return replace(answer, tag=tag)

    def _score(self, drafts: Sequence[Draft]) -> tuple[str | None, bool]:
        """Compute missing scores; return the release of the scores, and whether it was lost."""
        ranked = [draft for draft in drafts if draft.is_ranked_by_model]
        if not ranked:
            return None, False
        with self._capture(ranked[0].prepared.inputs.alias) as loaded_model:
            try:
                score(loaded_model, ranked, self._query_reader.tier_size)
            except ReleaseLostError:
                return loaded_model.release_id, True
            return loaded_model.release_id, False

    @contextmanager
    def _states_dropped_unless_current(self, drafts: Sequence[Draft]) -> Iterator[list[Recheck]]:
        """Drop the cached states of the askers unless a recheck finds that nothing changed.

        Race: the replica may follow a deletion after the history was read but before the scorer
        keeps the states computed from that history. Following the change log would then find no
        states to drop, so the states are dropped here, also when the recheck itself fails.
        """
        outcome: list[Recheck] = []
        user_ids = [draft.prepared.inputs.user.id for draft in drafts]
        try:
            yield outcome
        finally:
            if not outcome or outcome[0].gone or outcome[0].is_overtaken:
                for user_id in user_ids:
                    self._replica.forget(user_id)

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


def _or_raise(prepared: PreparedQuery | LetheError) -> PreparedQuery:
    if isinstance(prepared, LetheError):
        raise prepared
    return prepared


def _take_over(
    drafts: list[Draft | LetheError],
    places: Sequence[int],
    newer: Sequence[PreparedQuery | LetheError],
    *,
    only_drop: bool,
) -> None:
    """Rebase the drafts at these places, or put errors in their places."""
    for place, read in zip(places, newer, strict=True):
        draft = drafts[place]
        if isinstance(read, LetheError):
            drafts[place] = read
        elif isinstance(draft, Draft):
            draft.rebase(read, only_drop=only_drop)
