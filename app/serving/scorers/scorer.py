"""Define the interface between serving and the backends that compute scores."""

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
    """N candidates to score for one user; the history is oldest first.

    With `keep=False` the scorer neither uses nor keeps cached states of this user: the history may
    be a variation of the user's real history.
    """

    user_id: str
    attributes: Mapping[str, str]
    history: Sequence[HistoryEvent]
    candidates: Sequence[Candidate]
    keep: bool = True


class Scorer(Protocol):
    """Scores of one release. Thread-safe; no score comes from another release."""

    @property
    def precision(self) -> str | None:
        """Return the data type of the weights; None if a serving engine chooses the type."""

    @property
    def lost(self) -> bool:
        """Return whether the backend no longer holds the release, so that it must be reloaded."""

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes); raises UnavailableError if scores cannot be computed now."""

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Return the scores of several requests, computed jointly if this is faster.

        Requests with `keep` must be of different users.
        """

    def forget(self, user_id: str | None) -> None:
        """Drop all states computed from this user's history at once; None means all users."""

    def close(self) -> None:
        """Free the memory that this process uses for the release."""


class ScorerBackend(Protocol):
    """Create scorers, and manage the releases that are held outside this process.

    A serving engine is shared by several gateways, so closing a scorer leaves its adapter loaded.
    `app.serving.replica.adapter_cleanup` decides when to unload the adapter.
    """

    def load(self, release: Release, directory: Path, manifest: Manifest) -> Scorer:
        """Load and verify the release in `directory`; raises CheckpointError or EngineError."""

    def loaded_release_ids(self) -> set[str]:
        """Return the ids of all releases held outside this process; raises EngineError."""

    def unload(self, release_id: str) -> None:
        """Unload the release and verify that it is gone; raises EngineError if it is not."""

    def close(self) -> None:
        """Close all connections."""
