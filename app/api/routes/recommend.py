"""Recommendations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import TheGateway, UserPath
from app.api.responses import problems
from app.api.schemas import RecommendAnswer

router = APIRouter(tags=["recommendations"])


@router.get(
    "/recommend/{user_id:path}",
    responses=problems(
        "unknown-user",
        "user-forgotten",
        "invalid-input",
        "no-release",
        "replica-not-ready",
        "unavailable",
    ),
)
async def recommend(
    user_id: UserPath,
    gateway: TheGateway,
    n: Annotated[int, Query(ge=1, le=100, description="How many items.")] = 10,
    exclude_seen: Annotated[bool, Query(description="Leave out what the user has rated.")] = True,
) -> RecommendAnswer:
    """Return the items that the user will like best, all scored by the one release named."""
    answer = await gateway.recommender.recommend(user_id, n, exclude_seen=exclude_seen)
    return RecommendAnswer.of(answer)
