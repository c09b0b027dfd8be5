"""A release: immutable weights named by their content, and the replicas that serve them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.transitions import check_transition

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.requests import Outcome


class ReleaseStatus(StrEnum):
    """`candidate`: published, not served; `retired`: no longer served; `shredded`: gone."""

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    SHREDDED = "shredded"


_S = ReleaseStatus
#: There is no way back: nothing leads from retired or shredded to live.
RELEASE_TRANSITIONS: Final = {
    _S.CANDIDATE: frozenset({_S.LIVE, _S.SHREDDED}),
    _S.LIVE: frozenset({_S.RETIRED}),
    _S.RETIRED: frozenset({_S.SHREDDED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One set of weights. `id` is derived from `digest`, the SHA-256 of the weights file."""

    id: str
    digest: str
    parent: str | None
    job_id: str
    status: ReleaseStatus
    method: str
    outcome: Outcome | None
    #: Directory of the artefact, relative to the artefacts' root.
    path: str
    metrics: dict[str, Any] = field(default_factory=dict)
    #: Inconclusive audits since the last exact training of this lineage.
    error_budget_spent: int = 0
    created_at: datetime
    live_at: datetime | None = None
    shredded_at: datetime | None = None

    def evolve(self, **changes: Any) -> Release:
        """Return a copy with `changes`; a change of status must be a legal one."""
        new_status = changes.get("status", self.status)
        if new_status != self.status:
            check_transition("release", RELEASE_TRANSITIONS, self.status, new_status)
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """Which release is live and which is being prepared; `generation` grows with every flip."""

    live: str | None
    target: str | None
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What every answer is checked against, read in one query."""

    data_version: int
    alias: Alias
    #: Those of the hashes asked about that are suppressed.
    suppressed: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A gateway process that answers from a release for as long as its lease lasts."""

    id: str
    host: str
    pid: int
    #: The release it answers from, confirmed after the one before has been drained and freed.
    serving: str | None
    #: The release it has loaded beside and checked, ready for the flip.
    prepared: str | None
    lease_expires_at: datetime
    fenced: bool = False
    #: What kept it from preparing, for the operator.
    problem: str | None = None
    registered_at: datetime
