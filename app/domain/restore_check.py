"""The result of `lethe restore-check`: findings about a database, its ledger and its artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.requests import Scope


class Severity(StrEnum):
    """What a finding asks for.

    `ok`: nothing. `repeat`: the service repeats something by itself when it starts. `act`: an
    operator must act first. `damaged`: the ledger or a certificate cannot be trusted.
    """

    OK = "ok"
    REPEAT = "repeat"
    ACT = "act"
    DAMAGED = "damaged"


#: From the mildest to the worst.
SEVERITIES: Final = tuple(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A statement about the installation. It names requests and paths, never users or items."""

    code: str
    severity: Severity
    text: str
    #: Ids of the requests that the finding is about.
    request_ids: tuple[str, ...] = ()
    #: Further numbers and paths.
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDeletion:
    """A deletion as the ledger or a saved certificate states it."""

    request_id: str
    scope: Scope
    subject_hashes: tuple[str, ...]
    requested_at: datetime
    #: None while the ledger knows of no completion.
    completed_at: datetime | None = None
    is_cancelled: bool = False
    is_exact: bool = False
    #: More facts of the completion, such as job and release.
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifacts:
    """The files of an artifact store, as paths relative to its root."""

    root: str
    published: tuple[str, ...] = ()
    #: Releases with an adapter for serving engines.
    adapters: tuple[str, ...] = ()
    #: Jobs with files in progress.
    staged_jobs: tuple[str, ...] = ()
    #: The published paths that are complete.
    complete: frozenset[str] = frozenset()


def worst(findings: list[Finding]) -> Severity:
    """Return the worst severity of the findings."""
    return max(
        (finding.severity for finding in findings), key=SEVERITIES.index, default=Severity.OK
    )
