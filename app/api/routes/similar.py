"""Items that are like an item."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.caching import IfNoneMatch, answered, not_modified
from app.api.dependencies import ItemPath, TheGateway
from app.api.filters import Exclude, Include, filter_of
from app.api.responses import problems
from app.api.schemas_recommend import MAX_N, SimilarAnswer

router = APIRouter(tags=["recommendations"])


@router.get(
    "/items/{item_id:path}/similar",
    response_model=SimilarAnswer,
    responses={
        **problems("unknown-item", "invalid-input", "overloaded", "unavailable"),
        status.HTTP_304_NOT_MODIFIED: {"description": "Not modified"},
    },
)
async def similar(
    item_id: ItemPath,
    gateway: TheGateway,
    response: Response,
    n: Annotated[int, Query(ge=1, le=MAX_N, description="How many items.")] = 10,
    include: Include = (),
    exclude: Exclude = (),
    if_none_match: IfNoneMatch = None,
) -> SimilarAnswer | Response:
    """Return what is liked by those who like this item, by exactly unlearnable counts alone."""
    answer = await gateway.recommender.similar(item_id, n, filter_of(include, exclude))
    # Counting is as cheap as asking whether anything has changed.
    if answer.tag in (if_none_match or ()):
        return not_modified(answer.tag)
    answered(response, answer.tag)
    return SimilarAnswer.of(answer)
