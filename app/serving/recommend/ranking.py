"""Order proposed items by the scores of a release or by the first stage, and cut out the page.

Pages are stable: the first stage's order is cut into tiers of a fixed size, and a release reorders
each tier separately. So no page repeats an item of another page, and scoring a late page costs as
much as scoring the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.recommendations import RankedBy, Reason, Recommendation, RecommendedItem
from app.services.recommendation_inputs import VISITOR_ID
from app.serving.scorers.scorer import ScoringRequest
from models.data.samples import HISTORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import RecommendationQuery
    from app.services.entity_tags import TagVersions
    from app.services.recommendation_inputs import Inputs
    from app.serving.replica.live_model import LoadedModel
    from app.serving.retrieval.first_stage import ProposedItems
    from app.serving.scorers.scorer import Scorer
    from models.prompts.scoring_inputs import Candidate, HistoryEvent

#: The number of history events that explain one recommended item.
_MAX_REASONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuery:
    """A recommendation query with all inputs of its answer, read from one snapshot."""

    query: RecommendationQuery
    inputs: Inputs
    proposal: ProposedItems
    #: The rank in the first stage's order at which the page's first tier starts, from 0.
    start: int
    #: The user is unknown: the answer holds popular items.
    unknown: bool = False
    #: None: the answer gets no entity tag.
    tag_versions: TagVersions | None = None

    @property
    def user_id(self) -> str | None:
        person = self.query.person
        return person if isinstance(person, str) else None

    def request(self) -> ScoringRequest:
        """Return the scoring request; states of a visitor's history are not kept."""
        is_user = self.inputs.user.id != VISITOR_ID
        return self.request_for(self.proposal.history, self.proposal.candidates, keep=is_user)

    def request_for(
        self,
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
        *,
        keep: bool = False,
    ) -> ScoringRequest:
        """Return a scoring request for these candidates after this history."""
        return ScoringRequest(
            user_id=self.inputs.user.id,
            attributes=self.inputs.user.attributes,
            history=history,
            candidates=candidates,
            keep=keep,
        )


def tier_bounds(query: RecommendationQuery, tier_size: int) -> tuple[int, int]:
    """Return the half-open range of first-stage ranks that the page's tiers cover."""
    first = query.offset // tier_size
    last = (query.offset + query.n - 1) // tier_size
    return first * tier_size, (last + 1) * tier_size


def rank_with_model(
    loaded_model: LoadedModel, queries: Sequence[PreparedQuery], tier_size: int
) -> list[Recommendation]:
    """Answer the queries with the scores of one release; raises ReleaseLostError.

    Items with equal scores are ordered by item index, so that answers are reproducible.
    """
    requests = [prepared.request() for prepared in queries]
    scores = loaded_model.scorer.score_all(requests)
    return [
        _rank(loaded_model, prepared, query_scores, tier_size)
        for prepared, query_scores in zip(queries, scores, strict=True)
    ]


def rank_with_first_stage(prepared: PreparedQuery) -> Recommendation:
    """Answer in the first stage's order, without scores and without a release."""
    is_personal = bool(prepared.proposal.history) and not prepared.unknown
    return _page(
        prepared,
        [(item, None) for item in prepared.proposal.items],
        ranked_by=RankedBy.FIRST_STAGE if is_personal else RankedBy.POPULARITY,
    )


def _rank(
    loaded_model: LoadedModel,
    prepared: PreparedQuery,
    scores: NDArray[np.float32],
    tier_size: int,
) -> Recommendation:
    query, items = prepared.query, prepared.proposal.items
    if query.item_ids is not None:
        tier_size = max(len(items), 1)
    item_indices = np.array([item.item_index for item in items], np.int64)
    tier = np.arange(len(items)) // tier_size
    order = np.lexsort((item_indices, -scores, tier)).tolist()
    ordered = [(items[position], float(scores[position])) for position in order]
    answer = _page(prepared, ordered, ranked_by=RankedBy.MODEL, release=loaded_model.release_id)
    if not query.explain or not answer.items:
        return answer
    begin = query.offset - prepared.start
    page = [prepared.proposal.candidates[position] for position in order[begin : begin + query.n]]
    return _explain(loaded_model.scorer, prepared, answer, page)


def _page(
    prepared: PreparedQuery,
    ordered: Sequence[tuple[Item, float | None]],
    *,
    ranked_by: RankedBy,
    release: str | None = None,
) -> Recommendation:
    """Cut the requested page out of the ordered items of its tiers."""
    query = prepared.query
    begin = query.offset - prepared.start
    end = begin + query.n
    has_more = end < len(ordered) or prepared.proposal.has_more
    return Recommendation(
        user_id=prepared.user_id,
        release=release,
        items=tuple(
            RecommendedItem(item_id=item.id, title=item.title, score=score, rank=rank)
            for rank, (item, score) in enumerate(ordered[begin:end], start=query.offset + 1)
        ),
        ranked_by=ranked_by,
        next_offset=query.offset + query.n if has_more else None,
        data_version=prepared.inputs.data_version,
    )


def _explain(
    scorer: Scorer, prepared: PreparedQuery, answer: Recommendation, page: Sequence[Candidate]
) -> Recommendation:
    """Add to each item the history events that changed its score most, by leave-one-out.

    Each shortened history is scored from scratch, without cached states: a causal model's states
    of later events also encode the event that is left out.
    """
    history = prepared.proposal.history
    positions = range(max(0, len(history) - HISTORY_LENGTH), len(history))
    shortened = [
        prepared.request_for([*history[:position], *history[position + 1 :]], page)
        for position in positions
    ]
    # The full history is scored the same way, so that a difference comes from the event alone.
    full, *without_event = scorer.score_all([prepared.request_for(history, page), *shortened])
    effects = [full - scores for scores in without_event]
    items = []
    for column, item in enumerate(answer.items):
        reasons = [
            Reason(
                item_id=prepared.proposal.history_ids[position],
                title=history[position].title,
                rating=history[position].rating,
                effect=float(effect[column]),
            )
            for position, effect in zip(positions, effects, strict=True)
        ]
        reasons.sort(key=lambda reason: -abs(reason.effect))
        items.append(replace(item, because=tuple(reasons[:_MAX_REASONS])))
    return replace(answer, items=tuple(items))
