"""Recommendations for a user, a visitor, or several users."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response, status

from app.api.caching import IfNoneMatch, answered, not_modified
from app.api.dependencies import TheGateway, UserPath
from app.api.filters import Exclude, Include, filter_of
from app.api.responses import problems
from app.api.schemas.recommend import (
    MAX_DEADLINE_MS,
    MAX_N,
    MAX_OFFSET,
    RecommendAnswer,
    RecommendBatchAnswer,
    RecommendBatchBody,
    RecommendBody,
    RefusedAnswer,
)
from app.domain.errors import InvalidInputError, LetheError
from app.domain.recommendations import MAX_EXPLAINED, RecommendationQuery
from app.services.recommendation_inputs import distinct_queries

router = APIRouter(tags=["recommendations"])

_PROBLEMS: Final = problems(
    "unknown-user",
    "unknown-item",
    "user-forgotten",
    "invalid-input",
    "no-release",
    "restoring",
    "replica-not-ready",
    "overloaded",
    "unavailable",
)
_MILLISECONDS: Final = 1000


@router.get(
    "/recommend/{user_id:path}",
    response_model=RecommendAnswer,
    responses={**_PROBLEMS, status.HTTP_304_NOT_MODIFIED: {"description": "Not modified"}},
)
async def recommend(  # noqa: PLR0913, PLR0917 -- each is a parameter of the call
    user_id: UserPath,
    gateway: TheGateway,
    n: Annotated[int, Query(ge=1, le=MAX_N, description="Number of items.")] = 10,
    offset: Annotated[
        int, Query(ge=0, le=MAX_OFFSET, description="`next_offset` of the previous page.")
    ] = 0,
    exclude_seen: Annotated[
        bool, Query(description="Leave out items that the user has rated.")
    ] = True,
    include: Include = (),
    exclude: Exclude = (),
    deadline_ms: Annotated[
        int | None,
        Query(
            ge=1,
            le=MAX_DEADLINE_MS,
            description="After this time, return the first stage's ranking.",
        ),
    ] = None,
    explain: Annotated[
        bool, Query(description="Add the ratings with the largest effect on each score.")
    ] = False,
    fallback: Annotated[
        bool,
        Query(description="Return popular items for unknown users and before the first release."),
    ] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the items with the highest scores for a user, all scored by one release."""
    if explain and n > MAX_EXPLAINED:
        raise InvalidInputError(f"explain takes an n of at most {MAX_EXPLAINED}.")
    query = RecommendationQuery(
        person=user_id,
        n=n,
        offset=offset,
        exclude_seen=exclude_seen,
        filter=filter_of(include, exclude),
        explain=explain,
        fallback=fallback,
    )
    valid_tag = await gateway.recommender.matching_tag(query, if_none_match or frozenset())
    if valid_tag is not None:
        return not_modified(valid_tag)
    deadline = None if deadline_ms is None else deadline_ms / _MILLISECONDS
    answer = await gateway.recommender.recommend(query, deadline=deadline)
    return answered(RecommendAnswer.of(answer), answer.tag)


@router.post(
    "/recommend",
    response_model=RecommendAnswer,
    responses={**_PROBLEMS, **problems("body-too-large", "unsupported-media-type")},
)
async def rank(body: RecommendBody, gateway: TheGateway) -> Response:
    """Rank the given items, or recommend items to a visitor without storing any data."""
    deadline = None if body.deadline_ms is None else body.deadline_ms / _MILLISECONDS
    answer = await gateway.recommender.recommend(body.query(), deadline=deadline)
    return answered(RecommendAnswer.of(answer))


@router.post(
    "/recommend/batch",
    response_model=RecommendBatchAnswer,
    responses={**_PROBLEMS, **problems("body-too-large", "unsupported-media-type")},
)
async def recommend_batch(body: RecommendBatchBody, gateway: TheGateway) -> Response:
    """Recommend items to several users. A failure affects only the user concerned."""
    queries = distinct_queries(gateway.pseudonyms, body.queries())
    answers = await gateway.recommender.recommend_all(queries)
    answer = RecommendBatchAnswer(
        items=[
            RecommendAnswer.of(answer) for answer in answers if not isinstance(answer, LetheError)
        ],
        refused=[
            RefusedAnswer.of(str(query.person), answer)
            for query, answer in zip(queries, answers, strict=True)
            if isinstance(answer, LetheError)
        ],
    )
    return answered(answer)
