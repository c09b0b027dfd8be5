"""Erasures that are owed: the sweepers retry them until they are closed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class ScrubKind(StrEnum):
    """The kind of an owed erasure.

    `staging`: staging files of a claim; `upload`: files that the process of a claim may publish;
    `copy`: a local copy of a release that a process reads; `certificate`: the certificate that says
    that none is left.
    """

    DATABASE = "database"
    STAGING = "staging"
    UPLOAD = "upload"
    COPY = "copy"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedScrub:
    """An erasure that could not be carried out in time."""

    id: int
    kind: str
    job_id: str | None
    host: str | None
    path: str | None
    transaction_id: int | None
    attempts: int
    error: str | None
    created_at: datetime
    closed_at: datetime | None = None
