"""Puts a proposal in order, by one release or by the first stage, and cuts the page out of it.

Pages are stable: the first stage's order is cut into tiers of a fixed size, and a release orders
each tier by itself. So no page repeats an item of another, and a late page costs no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.recommendations import RankedBy, Reason, Recommendation, RecommendedItem
from app.services.recommendation_inputs import NOBODY
from app.serving.scorers.base import ScoringRequest
from models.data.samples import HISTORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import RecommendationQuery
    from app.services.recommendation_inputs import Inputs
    from app.serving.replica.live_model import ServingModel
    from app.serving.retrieval.first_stage import Proposal
    from app.serving.scorers.base import Scorer
    from models.prompts.scoring_inputs import Candidate, HistoryEvent

#: How many events of the history a recommended item names.
_REASONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with all that its answer is made from."""

    query: RecommendationQuery
    inputs: Inputs
    proposal: Proposal
    #: The tiers that the page lies in begin at this place of the first stage's order.
    start: int
    #: The person is not known: what is popular is answered.
    unknown: bool = False

    @property
    def user_id(self) -> str | None:
        person = self.query.person
        return person if isinstance(person, str) else None

    def request(self) -> ScoringRequest:
        """Return what a release is asked; of a visitor nothing is kept."""
        user = self.inputs.user
        return self.variation(
            self.proposal.history, self.proposal.candidates, keep=user.id != NOBODY
        )

    def variation(
        self,
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
        *,
        keep: bool = False,
    ) -> ScoringRequest:
        """Return a request for these items after this history."""
        return ScoringRequest(
            user_id=self.inputs.user.id,
            attributes=self.inputs.user.attributes,
            history=history,
            candidates=candidates,
            keep=keep,
        )


def tiers(query: RecommendationQuery, size: int) -> tuple[int, int]:
    """Return from where to where in the first stage's order the page's tiers reach."""
    first = query.offset // size
    last = (query.offset + query.n - 1) // size
    return first * size, (last + 1) * size


def by_model(
    serving_model: ServingModel, queries: Sequence[Asked], size: int
) -> list[Recommendation]:
    """Answer with the scores of one release; raises ReleaseLostError.

    Equal scores go by slot, so that answers reproduce.
    """
    requests = [asked.request() for asked in queries]
    scores = (
        [serving_model.scorer.score(requests[0])]
        if len(requests) == 1
        else serving_model.scorer.score_all(requests)
    )
    return [
        _answer(serving_model, asked, own, size) for asked, own in zip(queries, scores, strict=True)
    ]


def by_first_stage(asked: Asked) -> Recommendation:
    """Answer in the first stage's order, without any release."""
    items = asked.proposal.items
    personal = bool(asked.proposal.history) and not asked.unknown
    return _page(
        asked,
        [(item, None) for item in items],
        ranked_by=RankedBy.FIRST_STAGE if personal else RankedBy.POPULARITY,
    )


def _answer(
    serving_model: ServingModel, asked: Asked, scores: NDArray[np.float32], size: int
) -> Recommendation:
    items = asked.proposal.items
    size = size if asked.query.item_ids is None else max(len(items), 1)
    item_indices = np.array([item.item_index for item in items], np.int64)
    tier = np.arange(len(items)) // size
    order = np.lexsort((item_indices, -scores, tier)).tolist()
    ordered = [(items[place], float(scores[place])) for place in order]
    answer = _page(asked, ordered, ranked_by=RankedBy.MODEL, release=serving_model.release_id)
    if not asked.query.explain or not answer.items:
        return answer
    begin = asked.query.offset - asked.start
    page = [asked.proposal.candidates[place] for place in order[begin : begin + asked.query.n]]
    return _explained(serving_model.scorer, asked, answer, page)


def _page(
    asked: Asked,
    ordered: Sequence[tuple[Item, float | None]],
    *,
    ranked_by: RankedBy,
    release: str | None = None,
) -> Recommendation:
    """Cut the page out of its tiers."""
    query = asked.query
    begin = query.offset - asked.start
    end = begin + query.n
    more = end < len(ordered) or asked.proposal.more
    return Recommendation(
        user_id=asked.user_id,
        release=release,
        items=tuple(
            RecommendedItem(item_id=item.id, title=item.title, score=score, rank=rank)
            for rank, (item, score) in enumerate(ordered[begin:end], start=query.offset + 1)
        ),
        ranked_by=ranked_by,
        next_offset=query.offset + query.n if more else None,
        data_version=asked.inputs.data_version,
    )


def _explained(
    scorer: Scorer, asked: Asked, answer: Recommendation, page: Sequence[Candidate]
) -> Recommendation:
    """Say of each item which events of the history moved its score most: leave-one-out.

    Every shortened history is read anew, as though the person had never rated that one item: what
    a causal model made of later events holds the one before.
    """
    history = asked.proposal.history
    places = range(max(0, len(history) - HISTORY_LENGTH), len(history))
    requests = [
        asked.variation([*history[:place], *history[place + 1 :]], page) for place in places
    ]
    # The full history is read the same way, so that a difference is of the event alone.
    full, *without = scorer.score_all([asked.variation(history, page), *requests])
    effects = [full - each for each in without]
    items = []
    for column, item in enumerate(answer.items):
        reasons = [
            Reason(
                item_id=asked.proposal.history_ids[place],
                title=history[place].title,
                rating=history[place].rating,
                effect=float(effect[column]),
            )
            for place, effect in zip(places, effects, strict=True)
        ]
        reasons.sort(key=lambda reason: -abs(reason.effect))
        items.append(replace(item, because=tuple(reasons[:_REASONS])))
    return replace(answer, items=tuple(items))
