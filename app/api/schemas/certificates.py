"""JSON of certificates and of the keys that verify certificates."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from app.api.schemas.common import Answer

if TYPE_CHECKING:
    from app.domain.certificates import Certificate


class CertificateAnswer(Answer):
    """A certificate with its number. `certificate` is the signed document for `lethe verify`."""

    number: int
    kind: str
    created_at: datetime
    certificate: dict[str, Any]

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        return cls(
            number=certificate.number,
            kind=certificate.kind,
            created_at=certificate.created_at,
            certificate=certificate.envelope,
        )


class CertificateList(Answer):
    """All certificates of a deletion request, oldest first."""

    items: list[CertificateAnswer]


class SigningKeyAnswer(Answer):
    """The public part of a signing key (PEM). `retired_at` is null for the current key."""

    key_id: str
    algorithm: str
    public_key: str
    valid_from: datetime
    retired_at: datetime | None


class SigningKeyList(Answer):
    """Current and retired keys, oldest first."""

    keys: list[SigningKeyAnswer]
