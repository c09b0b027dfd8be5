"""Ratings: add or replace."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from app.api.dependencies import Forgotten, TheGateway, Writing
from app.api.responses import problems
from app.api.schemas.common import StoredAnswer
from app.api.schemas.users import InteractionBody
from app.services.interactions import add_interactions

router = APIRouter(tags=["interactions"])


@router.post(
    "/interactions",
    response_model_exclude_defaults=True,
    responses=problems(
        "unknown-item", "forgotten", "invalid-input", "body-too-large", "unsupported-media-type"
    ),
)
def add(
    body: Annotated[list[InteractionBody], Body(min_length=1, max_length=10_000)],
    gateway: TheGateway,
    uow: Writing,
    forgotten: Forgotten = "refuse",
) -> StoredAnswer:
    """Add or replace interactions, either all or none. An older rating replaces no later one."""
    skip = forgotten == "skip"
    rows = [entry.interaction() for entry in body]
    outcomes = add_interactions(uow, gateway.pseudonyms, rows, skip_forgotten=skip)
    return StoredAnswer.of(outcomes, with_outcomes=skip)
