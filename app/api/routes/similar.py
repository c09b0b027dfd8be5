"""Items that are similar to an item."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.caching import IfNoneMatch, answered, not_modified
from app.api.dependencies import ItemPath, TheGateway
from app.api.edge import BY_ID
from app.api.filters import Exclude, Include, filter_of
from app.api.responses import problems
from app.api.schemas.recommend import MAX_N, SimilarAnswer

router = APIRouter(tags=["recommendations"])
by_id = APIRouter(prefix=BY_ID, include_in_schema=False)


@by_id.get("/similar/{item_id:path}", response_model=SimilarAnswer)
@router.get(
    "/items/{item_id:path}/similar",
    response_model=SimilarAnswer,
    responses={
        **problems("unknown-item", "invalid-input", "restoring", "overloaded", "unavailable"),
        status.HTTP_304_NOT_MODIFIED: {"description": "Not modified"},
    },
)
async def similar(
    item_id: ItemPath,
    gateway: TheGateway,
    n: Annotated[int, Query(ge=1, le=MAX_N, description="Number of items.")] = 10,
    include: Include = (),
    exclude: Exclude = (),
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return items that are liked together with this item.

    The counts exclude forgotten users exactly; no model is used.
    """
    answer = await gateway.recommender.similar(item_id, n, filter_of(include, exclude))
    # The tag is checked afterwards: counting costs no more than the check for changes.
    if answer.tag in (if_none_match or ()):
        return not_modified(answer.tag)
    return answered(SimilarAnswer.of(answer), answer.tag)
