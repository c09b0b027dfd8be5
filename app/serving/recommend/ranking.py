"""Order proposed items by the scores of a release or by the first stage, and cut out the page.

Pages are stable: the first stage's order is cut into tiers of a fixed size, and a release reorders
each tier separately. So no page repeats an item of another page, and scoring a late page costs as
much as scoring the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from app.domain.recommendations import RankedBy, Reason, Recommendation, RecommendedItem
from app.services.recommendation_inputs import VISITOR_ID
from app.serving.scorers.scorer import ScoringRequest
from models.data.samples import HISTORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.catalog import Item
    from app.domain.recommendations import RecommendationQuery
    from app.services.entity_tags import TagVersions
    from app.services.recommendation_inputs import AskerInputs
    from app.serving.retrieval.proposals import ProposedItems
    from app.serving.scorers.scorer import Scorer
    from models.prompts.scoring_inputs import Candidate, HistoryEvent

#: The number of history events that explain one recommended item.
_MAX_REASONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuery:
    """A recommendation query with all inputs of its answer, read from one snapshot."""

    query: RecommendationQuery
    inputs: AskerInputs
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

    def request(self, candidates: Sequence[Candidate] | None = None) -> ScoringRequest:
        """Return the scoring request for these candidates, by default for all that are proposed.

        States of a visitor's history are not kept.
        """
        is_user = self.inputs.user.id != VISITOR_ID
        if candidates is None:
            candidates = self.proposal.candidates
        return self.request_for(self.proposal.history, candidates, keep=is_user)

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


def without_items(prepared: PreparedQuery, item_ids: AbstractSet[str]) -> PreparedQuery:
    """Return the query without these items in its proposal."""
    proposal = prepared.proposal
    kept = [
        (item, candidate)
        for item, candidate in zip(proposal.items, proposal.candidates, strict=True)
        if item.id not in item_ids
    ]
    items = tuple(item for item, _ in kept)
    candidates = tuple(candidate for _, candidate in kept)
    return replace(prepared, proposal=replace(proposal, items=items, candidates=candidates))


def rank_with_first_stage(prepared: PreparedQuery) -> Recommendation:
    """Answer in the first stage's order, without scores and without a release."""
    is_personal = bool(prepared.proposal.history) and not prepared.unknown
    return _page(
        prepared,
        [(item, None) for item in prepared.proposal.items],
        ranked_by=RankedBy.FIRST_STAGE if is_personal else RankedBy.POPULARITY,
    )


def rank_with_scores(
    prepared: PreparedQuery,
    scores: Mapping[int, float],
    reasons: Mapping[int, tuple[Reason, ...]],
    release: str,
    tier_size: int,
) -> Recommendation:
    """Answer with the scores of one release by item index; items without a score are left out.

    Items with equal scores are ordered by item index, so that answers are reproducible. With
    `explain`, items of the page without reasons are left out as well.
    """
    ordered = [(item, scores[item.item_index]) for item in order(prepared, scores, tier_size)]
    answer = _page(prepared, ordered, ranked_by=RankedBy.MODEL, release=release)
    if not prepared.query.explain:
        return answer
    item_indices = [item.item_index for item, _ in ordered[_page_of(prepared)]]
    explained = [
        replace(item, because=reasons[item_index])
        for item, item_index in zip(answer.items, item_indices, strict=True)
        if item_index in reasons
    ]
    return replace(answer, items=tuple(explained))


def order(prepared: PreparedQuery, scores: Mapping[int, float], tier_size: int) -> list[Item]:
    """Return the proposed items that have a score: tier by tier, the best of each tier first."""
    if prepared.query.item_ids is not None:
        tier_size = max(len(prepared.proposal.items), 1)
    places = {
        item.item_index: (place // tier_size, -scores[item.item_index], item.item_index)
        for place, item in enumerate(prepared.proposal.items)
        if item.item_index in scores
    }
    return sorted(
        (item for item in prepared.proposal.items if item.item_index in places),
        key=lambda item: places[item.item_index],
    )


def page_candidates(
    prepared: PreparedQuery, scores: Mapping[int, float], tier_size: int
) -> list[Candidate]:
    """Return the scorer's inputs for the items of the page, best first."""
    page = order(prepared, scores, tier_size)[_page_of(prepared)]
    candidates = {c.item_index: c for c in prepared.proposal.candidates}
    return [candidates[item.item_index] for item in page]


def _page_of(prepared: PreparedQuery) -> slice:
    """Return the place of the page in the ordered items of its tiers."""
    begin = prepared.query.offset - prepared.start
    return slice(begin, begin + prepared.query.n)


def _page(
    prepared: PreparedQuery,
    ordered: Sequence[tuple[Item, float | None]],
    *,
    ranked_by: RankedBy,
    release: str | None = None,
) -> Recommendation:
    """Cut the requested page out of the ordered items of its tiers."""
    query, page = prepared.query, _page_of(prepared)
    has_more = page.stop < len(ordered) or prepared.proposal.has_more
    return Recommendation(
        user_id=prepared.user_id,
        release=release,
        items=tuple(
            RecommendedItem(item_id=item.id, title=item.title, score=score, rank=rank)
            for rank, (item, score) in enumerate(ordered[page], start=query.offset + 1)
        ),
        ranked_by=ranked_by,
        next_offset=query.offset + query.n if has_more else None,
        data_version=prepared.inputs.data_version,
    )


def explain(
    scorer: Scorer, prepared: PreparedQuery, page: Sequence[Candidate]
) -> dict[int, tuple[Reason, ...]]:
    """Return item index → the history events that changed its score most, by leave-one-out.

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
    explained = {}
    for column, candidate in enumerate(page):
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
        explained[candidate.item_index] = tuple(reasons[:_MAX_REASONS])
    return explained
