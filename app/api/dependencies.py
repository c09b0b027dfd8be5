"""What routes ask for, as `Annotated` aliases: a route's signature reads as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, StringConstraints

from app.api.state import Gateway
from app.services.pagination import DEFAULT_LIMIT, MAX_LIMIT
from app.services.validation import MAX_ID_LENGTH
from app.storage.unit_of_work import UnitOfWork


def _gateway(request: Request) -> Gateway:
    return cast("Gateway", request.app.state.gateway)


TheGateway = Annotated[Gateway, Depends(_gateway)]


def _writing(gateway: TheGateway) -> Iterator[UnitOfWork]:
    with gateway.uow() as uow:
        yield uow


def _reading(gateway: TheGateway) -> Iterator[UnitOfWork]:
    with gateway.uow(write=False) as uow:
        yield uow


# The commit comes before the response, so that a failed one is never told as success. A unit holds
# a connection, and perhaps the write lock, while its route waits for a thread: with as many units
# as threads, those that wait for the lock would take the thread that its holder needs to go on.
Writing = Annotated[UnitOfWork, Depends(_writing, scope="function", max_concurrency=8)]
Reading = Annotated[UnitOfWork, Depends(_reading, scope="function", max_concurrency=12)]


def printable(value: str) -> str:
    """Refuse what no database stores and no log should show."""
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_LENGTH),
    AfterValidator(printable),
]
UserPath = Annotated[Id, Path(description="The person's id.")]
ItemPath = Annotated[Id, Path(description="The item's id.")]
RequestPath = Annotated[Id, Path(description="The deletion request's id.")]
JobPath = Annotated[Id, Path(description="The job's id.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries per page.")]
Cursor = Annotated[
    str | None, Query(max_length=MAX_ID_LENGTH, description="`next_cursor` of the page before.")
]
IdempotencyKey = Annotated[
    Id | None,
    Header(
        alias="Idempotency-Key",
        description="Repeating a call with the same key gives the same request.",
    ),
]
DEFAULT_PAGE = DEFAULT_LIMIT
