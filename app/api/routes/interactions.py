"""Ratings: add or replace."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query

from app.api.dependencies import TheGateway, Writing
from app.api.responses import problems
from app.api.schemas.users import InteractionBody, InteractionsAnswer
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
    forgotten: Annotated[
        Literal["refuse", "skip"],
        Query(description="`skip` leaves out the ratings of forgotten persons and counts them."),
    ] = "refuse",
) -> InteractionsAnswer:
    """Add or replace interactions, either all or none. An older rating replaces no later one."""
    result = add_interactions(
        uow,
        gateway.pseudonyms,
        [entry.interaction() for entry in body],
        skip_forgotten=forgotten == "skip",
    )
    return InteractionsAnswer.model_validate(result)
