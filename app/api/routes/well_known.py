"""The public keys of certificates, at an address that auditors can guess (RFC 8615)."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.dependencies import Reading
from app.api.responses import problems
from app.api.schemas.certificates import SigningKeyList
from app.services.signing_keys import keys_document

router = APIRouter(tags=["certificates"])


@router.get("/.well-known/lethe-keys", responses=problems())
def lethe_keys(uow: Reading) -> SigningKeyList:
    """Return the current and the retired public keys of certificates, with their validity."""
    return SigningKeyList.model_validate(keys_document(uow.signing_keys.all()))
