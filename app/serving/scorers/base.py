"""The one interface between serving and whatever computes scores; knows neither torch nor HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from models.requests import Candidate, HistoryEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """N candidates for one user; the history is oldest first."""

    user_id: str
    attributes: Mapping[str, str]
    history: Sequence[HistoryEvent]
    candidates: Sequence[Candidate]


class Scorer(Protocol):
    """One release, ready to answer. Thread-safe; an answer comes from this release alone."""

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes); raises UnavailableError where it cannot be had at present."""

    def forget(self, user_id: str | None) -> None:
        """Drop every state that was made from this user's history, at once; None: everybody's."""

    def close(self) -> None:
        """Free the release and every state made with it; raises UnavailableError if it cannot."""
