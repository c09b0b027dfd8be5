"""Users: add, change, read and forget."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Body, Query, Response, status

from app.api.dependencies import Forgotten, IdempotencyKey, Reading, TheGateway, UserPath, Writing
from app.api.edge import BY_ID
from app.api.responses import problems
from app.api.routes.forget import record
from app.api.schemas.common import StoredAnswer
from app.api.schemas.forget import ForgetAnswer, ForgetBody, ForgetUsersAnswer, ForgetUsersBody
from app.api.schemas.users import ErasureAnswer, UserAnswer, UserBody
from app.services.forget_users import forget_known_users, forget_users
from app.services.users import read_erasure, read_user, store_users

router = APIRouter(prefix="/users", tags=["users"])
#: Paths of the query forms: an id that ends in "/erasure" is no query about another id here.
by_id = APIRouter(prefix=BY_ID, include_in_schema=False)


@router.post(
    "",
    response_model_exclude_defaults=True,
    responses=problems("forgotten", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def store(
    body: Annotated[list[UserBody], Body(min_length=1, max_length=10_000)],
    gateway: TheGateway,
    uow: Writing,
    tasks: BackgroundTasks,
    forgotten: Forgotten = "refuse",
) -> StoredAnswer:
    """Add users or replace their attributes, either all or none."""
    skip = forgotten == "skip"
    users = [entry.user() for entry in body]
    outcomes = store_users(uow, gateway.pseudonyms, users, skip_forgotten=skip)
    tasks.add_task(gateway.replica.data_changed)
    return StoredAnswer.of(outcomes, with_outcomes=skip)


@router.post(
    "/forget",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems("unknown-user", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def forget_many(
    body: ForgetUsersBody,
    gateway: TheGateway,
    uow: Writing,
    tasks: BackgroundTasks,
    unknown: Annotated[
        Literal["refuse", "report"],
        Query(description="`report` forgets the known users and lists the unknown ids."),
    ] = "refuse",
) -> ForgetUsersAnswer:
    """Request the deletion of several users, either all or, with `unknown=report`, the known.

    With `suppress_unknown`, no user is unknown.
    """
    unknown_ids = None
    pseudonyms, settings = gateway.pseudonyms, gateway.settings
    suppress = body.suppress_unknown
    if unknown == "report":
        requests, unknown_ids = forget_known_users(
            uow, pseudonyms, settings, body.user_ids, suppress_unknown=suppress
        )
    else:
        requests = forget_users(uow, pseudonyms, settings, body.user_ids, suppress_unknown=suppress)
    tasks.add_task(gateway.replica.data_changed)
    items = ForgetAnswer.read(uow, requests, gateway.settings.exact)
    return ForgetUsersAnswer(items=items, unknown=unknown_ids)


@by_id.get("/erasure/{user_id:path}")
@router.get("/{user_id:path}/erasure", responses=problems("unknown-user", "invalid-input"))
def erasure(user_id: UserPath, gateway: TheGateway, uow: Reading) -> ErasureAnswer:
    """Return whether a user is forgotten, since when, by which request, and how exactly.

    `404` only for a user who is neither known nor forgotten.
    """
    return ErasureAnswer.of(read_erasure(uow, gateway.pseudonyms, user_id))


@by_id.get("/users/{user_id:path}")
@router.get(
    "/{user_id:path}", responses=problems("unknown-user", "user-forgotten", "invalid-input")
)
def read(user_id: UserPath, gateway: TheGateway, uow: Reading) -> UserAnswer:
    """Return the stored data about a user."""
    return UserAnswer.of(read_user(uow, gateway.pseudonyms, user_id))


@by_id.delete("/users/{user_id:path}", status_code=status.HTTP_202_ACCEPTED)
@router.delete(
    "/{user_id:path}",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems("unknown-user", "idempotency-conflict", "invalid-input")
    | {
        status.HTTP_200_OK: {
            "model": ForgetAnswer,
            "description": "The deletion has an earlier request",
        }
    },
)
def remove(
    user_id: UserPath,
    gateway: TheGateway,
    uow: Writing,
    response: Response,
    tasks: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> ForgetAnswer:
    """Request the deletion of a user, like `POST /forget` with this `user_id`."""
    return record(ForgetBody(user_id=user_id), gateway, uow, response, tasks, idempotency_key)
