"""Users: add, change, read and forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Body, Response, status

from app.api.dependencies import IdempotencyKey, Reading, TheGateway, UserPath, Writing
from app.api.responses import problems
from app.api.routes.forget import forget
from app.api.schemas.common import StoredAnswer
from app.api.schemas.forget import ForgetAnswer, ForgetBody, ForgetUsersAnswer, ForgetUsersBody
from app.api.schemas.users import UserAnswer, UserBody
from app.services.forget import forget_users
from app.services.users import read_user, store_users

router = APIRouter(prefix="/users", tags=["users"])


@router.post(
    "",
    responses=problems("forgotten", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def store(
    body: Annotated[list[UserBody], Body(min_length=1, max_length=10_000)],
    gateway: TheGateway,
    uow: Writing,
    tasks: BackgroundTasks,
) -> StoredAnswer:
    """Add users or replace their attributes, either all or none."""
    stored = store_users(uow, gateway.pseudonyms, [entry.user() for entry in body])
    tasks.add_task(gateway.replica.data_changed)
    return StoredAnswer(stored=stored)


@router.post(
    "/forget",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems("unknown-user", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def forget_many(
    body: ForgetUsersBody, gateway: TheGateway, uow: Writing, tasks: BackgroundTasks
) -> ForgetUsersAnswer:
    """Request the deletion of several users, either all or none."""
    requests = forget_users(uow, gateway.pseudonyms, gateway.settings, body.user_ids)
    tasks.add_task(gateway.replica.data_changed)
    return ForgetUsersAnswer(items=ForgetAnswer.read(uow, requests, gateway.settings.exact))


@router.get(
    "/{user_id:path}", responses=problems("unknown-user", "user-forgotten", "invalid-input")
)
def read(user_id: UserPath, gateway: TheGateway, uow: Reading) -> UserAnswer:
    """Return the stored data about a user."""
    return UserAnswer.of(read_user(uow, gateway.pseudonyms, user_id))


@router.delete(
    "/{user_id:path}",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems("unknown-user", "idempotency-conflict", "invalid-input")
    | {status.HTTP_200_OK: {"model": ForgetAnswer, "description": "An earlier request covers it"}},
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
    return forget(ForgetBody(user_id=user_id), gateway, uow, response, tasks, idempotency_key)
