"""Certificates of deletion requests, and the public keys that verify certificates."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime


class CertificateKind(StrEnum):
    """The kinds of certificates.

    `deletion` proves the deletion, `exact` cites it and proves that the weights were trained
    without the erased rows, and `scrub-closed` states that the last owed erasure was carried out.
    """

    DELETION = "deletion"
    EXACT = "exact"
    SCRUB_CLOSED = "scrub-closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A signed certificate. `envelope` is the JSON object that `lethe verify` reads."""

    request_id: str
    #: 1, 2, … for each request.
    number: int
    kind: str
    envelope: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """The public part of a signing key. `retired_at` is None for the current key."""

    key_id: str
    public_pem: str
    valid_from: datetime
    retired_at: datetime | None = None
