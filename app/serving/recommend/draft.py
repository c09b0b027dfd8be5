"""An answer while it is computed: the newest proposal, and the scores that are known so far.

When a deletion overtakes the answer, the draft takes over a new proposal and keeps the scores that
are still valid. A score depends on the release, the user and the history, and on nothing else of
the proposal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.serving.recommend.ranking import (
    explain,
    page_candidates,
    rank_with_first_stage,
    rank_with_scores,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.recommendations import Reason, Recommendation
    from app.serving.recommend.ranking import PreparedQuery
    from app.serving.replica.live_model import LoadedModel
    from models.prompts.scoring_inputs import Candidate


@dataclass(slots=True, eq=False)
class Draft:
    """The state of one answer. Each call of `score` and `rebase` keeps these fields consistent."""

    prepared: PreparedQuery
    #: The release of all scores; None before the first scoring, and for answers without a model.
    release: str | None = None
    #: Item index → score.
    scores: dict[int, float] = field(default_factory=dict)
    #: Item index → reasons, only for queries that ask for them.
    reasons: dict[int, tuple[Reason, ...]] = field(default_factory=dict)
    #: The query with which the scores were computed.
    scored: PreparedQuery | None = None
    #: Whether candidates without a score are left out instead of being scored.
    only_drops: bool = False

    @property
    def is_ranked_by_model(self) -> bool:
        """Return whether the answer needs scores."""
        inputs, query = self.prepared.inputs, self.prepared.query
        return not (self.prepared.unknown or (inputs.alias.live is None and query.fallback))

    @property
    def used_ids(self) -> AbstractSet[str]:
        """Return the rated items that the proposal or the scores were computed from.

        The scores may be older than the proposal, and their ratings too old for its history.
        """
        scored = () if self.scored is None else self.scored.proposal.history_ids
        return self.prepared.proposal.usable.used_ids.union(scored)

    def rebase(self, prepared: PreparedQuery, *, only_drop: bool) -> None:
        """Take over a newer proposal, and keep the scores that are still valid.

        With `only_drop`, scores stay valid as long as every event of their history may still be
        used. Then new candidates are left out. Otherwise scores need the same history.
        """
        self.prepared = prepared
        self.only_drops = False
        before = self.scored
        if before is None:
            return
        if only_drop and prepared.proposal.usable.item_ids().issuperset(
            before.proposal.history_ids
        ):
            self.only_drops = True
        elif (before.inputs.user, before.proposal.history) != (
            prepared.inputs.user,
            prepared.proposal.history,
        ):
            self.discard_scores()

    def discard_scores(self) -> None:
        """Forget all scores, so that the next scoring computes them again."""
        self.release = self.scored = None
        self.scores, self.reasons = {}, {}
        self.only_drops = False

    def missing(self) -> list[Candidate]:
        """Return the candidates that must be scored."""
        if self.only_drops or not self.is_ranked_by_model:
            return []
        return [c for c in self.prepared.proposal.candidates if c.item_index not in self.scores]

    def answer(self, tier_size: int) -> Recommendation:
        """Return the answer in its present state."""
        if not self.is_ranked_by_model or self.release is None:
            return rank_with_first_stage(self.prepared)
        return rank_with_scores(self.prepared, self.scores, self.reasons, self.release, tier_size)


def score(loaded_model: LoadedModel, ranked: Sequence[Draft], tier_size: int) -> None:
    """Compute all missing scores of drafts that the model ranks; raises ReleaseLostError."""
    for draft in ranked:
        if draft.release not in {None, loaded_model.release_id}:
            draft.discard_scores()
    missing = [(draft, candidates) for draft in ranked if (candidates := draft.missing())]
    requests = [draft.prepared.request(candidates) for draft, candidates in missing]
    scores = loaded_model.scorer.score_all(requests) if requests else []
    for (draft, candidates), values in zip(missing, scores, strict=True):
        item_indices = [candidate.item_index for candidate in candidates]
        draft.scores.update(zip(item_indices, map(float, values), strict=True))
    for draft in ranked:
        draft.release = loaded_model.release_id
        if not draft.only_drops:
            draft.scored = draft.prepared
            _explain_page(loaded_model, draft, tier_size)


def _explain_page(loaded_model: LoadedModel, draft: Draft, tier_size: int) -> None:
    """Explain the items of the page that have no reasons yet."""
    if not draft.prepared.query.explain:
        return
    page: Sequence[Candidate] = [
        candidate
        for candidate in page_candidates(draft.prepared, draft.scores, tier_size)
        if candidate.item_index not in draft.reasons
    ]
    if page:
        draft.reasons |= explain(loaded_model.scorer, draft.prepared, page)
