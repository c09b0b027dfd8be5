"""New consent of forgotten users."""

from __future__ import annotations

from fastapi import APIRouter, status

from app.api.dependencies import TheGateway, Writing
from app.api.responses import problems
from app.api.schemas.forget import ConsentAnswer, ConsentBody
from app.services.suppression import record_consent

router = APIRouter(tags=["consents"])


@router.post(
    "/consents",
    status_code=status.HTTP_201_CREATED,
    responses=problems(
        "unknown-user", "conflict", "invalid-input", "body-too-large", "unsupported-media-type"
    ),
)
def consent(body: ConsentBody, gateway: TheGateway, uow: Writing) -> ConsentAnswer:
    """Record a forgotten user's new consent, so that data about the user is accepted again."""
    lifted = record_consent(uow, gateway.pseudonyms, body.user_id, body.item_ids)
    return ConsentAnswer(lifted=lifted)
