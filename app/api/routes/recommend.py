"""Recommendations."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response, status

from app.api.caching import IfNoneMatch, answered, not_modified
from app.api.dependencies import TheGateway, UserPath
from app.api.filters import Exclude, Include, filter_of
from app.api.responses import problems
from app.api.schemas_recommend import (
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

router = APIRouter(tags=["recommendations"])

_PROBLEMS: Final = problems(
    "unknown-user",
    "unknown-item",
    "user-forgotten",
    "invalid-input",
    "no-release",
    "replica-not-ready",
    "overloaded",
    "unavailable",
)
_MILLISECONDS: Final = 1000


@router.get(
    "/recommend/{user_id:path}",
    response_model=RecommendAnswer,
    response_model_exclude_defaults=True,
    responses={**_PROBLEMS, status.HTTP_304_NOT_MODIFIED: {"description": "Not modified"}},
)
async def recommend(  # noqa: PLR0913, PLR0917 -- each is a parameter of the call
    user_id: UserPath,
    gateway: TheGateway,
    response: Response,
    n: Annotated[int, Query(ge=1, le=MAX_N, description="How many items.")] = 10,
    offset: Annotated[
        int, Query(ge=0, le=MAX_OFFSET, description="`next_offset` of the page before.")
    ] = 0,
    exclude_seen: Annotated[bool, Query(description="Leave out what the user has rated.")] = True,
    include: Include = (),
    exclude: Exclude = (),
    deadline_ms: Annotated[
        int | None,
        Query(ge=1, le=MAX_DEADLINE_MS, description="Then the first stage's order is answered."),
    ] = None,
    explain: Annotated[bool, Query(description="Say what moved each score most.")] = False,
    fallback: Annotated[
        bool, Query(description="For unknown users, or before any release: what is popular.")
    ] = False,
    if_none_match: IfNoneMatch = None,
) -> RecommendAnswer | Response:
    """Return the items that the user will like best, all scored by the one release named."""
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
    held = await gateway.recommender.matching_tag(query, if_none_match or frozenset())
    if held is not None:
        return not_modified(held)
    deadline = None if deadline_ms is None else deadline_ms / _MILLISECONDS
    answer = await gateway.recommender.recommend(query, deadline=deadline)
    answered(response, answer.tag)
    return RecommendAnswer.of(answer)


@router.post(
    "/recommend",
    response_model_exclude_defaults=True,
    responses={**_PROBLEMS, **problems("body-too-large", "unsupported-media-type")},
)
async def rank(body: RecommendBody, gateway: TheGateway, response: Response) -> RecommendAnswer:
    """Rank given items, or recommend to a visitor of whom nothing is stored."""
    deadline = None if body.deadline_ms is None else body.deadline_ms / _MILLISECONDS
    answer = await gateway.recommender.recommend(body.query(), deadline=deadline)
    answered(response)
    return RecommendAnswer.of(answer)


@router.post(
    "/recommend/batch",
    response_model_exclude_defaults=True,
    responses={**_PROBLEMS, **problems("body-too-large", "unsupported-media-type")},
)
async def recommend_batch(
    body: RecommendBatchBody, gateway: TheGateway, response: Response
) -> RecommendBatchAnswer:
    """Recommend to several users in one call, read together; one that fails fails alone."""
    queries = body.queries()
    answers = await gateway.recommender.recommend_all(queries)
    answered(response)
    return RecommendBatchAnswer(
        items=[RecommendAnswer.of(one) for one in answers if not isinstance(one, LetheError)],
        refused=[
            RefusedAnswer.of(str(query.person), one)
            for query, one in zip(queries, answers, strict=True)
            if isinstance(one, LetheError)
        ],
    )
