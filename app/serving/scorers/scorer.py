"""The one interface between serving and whatever computes scores; knows neither torch nor HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from app.domain.releases import Release
    from models.checkpoints.manifest import Manifest
    from models.prompts.scoring_inputs import Candidate, HistoryEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """N candidates for one user; the history is oldest first.

    Without `keep` it is scored from nothing and leaves nothing: what a model made of this user's
    history before is not used, and what it makes of this one, a variation perhaps, is not kept.
    """

    user_id: str
    attributes: Mapping[str, str]
    history: Sequence[HistoryEvent]
    candidates: Sequence[Candidate]
    keep: bool = True


class Scorer(Protocol):
    """One release, ready to answer. Thread-safe; an answer comes from this release alone."""

    @property
    def lost(self) -> bool:
        """Say whether the release can no longer be asked and must be loaded anew."""

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes); raises UnavailableError where it cannot be had at present."""

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Return the scores of several requests, read together where that is faster.

        Each has a history of its own: several people, or one person's history in variations,
        which should say `keep=False`.
        """

    def forget(self, user_id: str | None) -> None:
        """Drop every state that was made from this user's history, at once; None: everybody's."""

    def close(self) -> None:
        """Free what this process holds of the release."""


class ScorerBackend(Protocol):
    """Makes scorers of releases, and knows what is held of releases outside of this process.

    What an engine holds is shared by all gateways that use it, so that closing a scorer leaves it
    there: `app.serving.replica.adapter_cleanup` says when it goes.
    """

    def load(self, release: Release, directory: Path, manifest: Manifest) -> Scorer:
        """Return the release in `directory`, checked; raises CheckpointError or EngineError."""

    def held(self) -> set[str]:
        """Return the ids of all releases that are held; raises EngineError."""

    def unload(self, release_id: str) -> None:
        """Have the release let go of, and verify it; raises EngineError where it is not gone."""

    def close(self) -> None:
        """Drop all connections."""
