"""Releases, the live alias, and the replicas that serve a release."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.transitions import check_transition

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.requests import Outcome


class ReleaseStatus(StrEnum):
    """`candidate`: not served yet; `retired`: no longer served; `shredded`: weights deleted."""

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    SHREDDED = "shredded"


_S = ReleaseStatus
#: Old status → allowed new statuses. A retired release never becomes live again.
RELEASE_TRANSITIONS: Final = {
    _S.CANDIDATE: frozenset({_S.LIVE, _S.SHREDDED}),
    _S.LIVE: frozenset({_S.RETIRED}),
    _S.RETIRED: frozenset({_S.SHREDDED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Immutable weights. `id` is derived from `digest`, the SHA-256 of the weights file."""

    id: str
    digest: str
    parent: str | None
    job_id: str
    status: ReleaseStatus
    method: str
    outcome: Outcome | None
    #: Directory of the weights, relative to the root of the artifact store.
    path: str
    metrics: dict[str, Any] = field(default_factory=dict)
    #: Seconds of the exact training at the root of the lineage, up to the rollout; None: unknown.
    training_seconds: float | None = None
    #: Number of training rows of that exact training; None: unknown.
    training_rows: int | None = None
    #: Number of training rows that fast unlearning has removed since that exact training.
    forgotten_rows: int = 0
    #: Measured drift against the figures of that exact training; None: not measurable.
    drift: dict[str, Any] | None = None
    created_at: datetime
    live_at: datetime | None = None
    shredded_at: datetime | None = None

    @property
    def forgotten_share(self) -> float | None:
        """Return the share of the exact training's rows that are gone; None: not recorded."""
        if self.training_rows is None:
            return None
        return self.forgotten_rows / max(1, self.training_rows)

    @property
    def loss_increase(self) -> float:
        """Return the relative loss increase since the exact training; 0 where not measurable."""
        return float((self.drift or {}).get("increase") or 0.0)

    def evolve(self, **changes: Any) -> Release:
        """Return a copy with `changes`. Raises IllegalTransitionError."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("release", RELEASE_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """The live release and the rollout target. `generation` grows by one with every flip."""

    live: str | None
    target: str | None
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A gateway process, which may answer while its lease is valid."""

    id: str
    host: str
    pid: int
    #: The release that answers use, reported after the previous release is unloaded.
    serving: str | None
    #: The release that is loaded and verified, ready for the flip.
    prepared: str | None
    lease_expires_at: datetime
    fenced: bool = False
    #: Why the replica does not follow the rollout, for operators. It may serve the live release.
    problem: str | None = None
    #: The live or target release that the replica last failed to load.
    failed_release: str | None = None
    #: The data version up to which the replica has applied the change log; None: not reported.
    data_version: int | None = None
    registered_at: datetime
    #: The time at which the replica first reported `serving`.
    serving_since: datetime | None = None
    #: The data type of the live model's weights; None with a serving engine, which decides itself.
    precision: str | None = None
    #: The setting LETHE_SCORER and the version of the replica; None for earlier versions.
    scorer: str | None = None
    software: str | None = None
