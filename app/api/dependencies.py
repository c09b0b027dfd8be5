"""FastAPI dependencies and parameter types of the routes, as `Annotated` aliases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, cast

from fastapi import Depends, Header, Path, Query, Request

from app.api.metrics import Metrics
from app.api.schemas.common import PathId, Token
from app.api.state import Gateway
from app.domain.id_rules import MAX_ID_LENGTH
from app.services.pagination import DEFAULT_LIMIT, MAX_LIMIT
from app.storage.unit_of_work import UnitOfWork


def _gateway(request: Request) -> Gateway:
    return cast("Gateway", request.app.state.gateway)


def _metrics(request: Request) -> Metrics:
    return cast("Metrics", request.app.state.metrics)


TheGateway = Annotated[Gateway, Depends(_gateway)]
TheMetrics = Annotated[Metrics, Depends(_metrics)]


def _writing(gateway: TheGateway) -> Iterator[UnitOfWork]:
    with gateway.uow() as uow:
        yield uow


def _reading(gateway: TheGateway) -> Iterator[UnitOfWork]:
    with gateway.uow(write=False) as uow:
        yield uow


# `scope="function"` commits before the response is sent, so that a failed commit is never reported
# as success. `max_concurrency` prevents a deadlock: a unit of work holds a connection, and perhaps
# the write lock, while its route waits for a thread. With as many units as threads, the units that
# wait for the lock would occupy the thread that the holder of the lock needs. Together, the limits
# below allow 28 units. A process has 40 threads and 32 connections.
Writing = Annotated[UnitOfWork, Depends(_writing, scope="function", max_concurrency=8)]
Reading = Annotated[UnitOfWork, Depends(_reading, scope="function", max_concurrency=12)]

IsDryRun = Annotated[bool, Query(description="Say what the call would do, and store nothing.")]


def _writing_unless_dry_run(gateway: TheGateway, dry_run: IsDryRun = False) -> Iterator[UnitOfWork]:
    # A dry run cannot store anything: its transaction only reads.
    with gateway.uow(write=not dry_run) as uow:
        yield uow


WritingUnlessDryRun = Annotated[
    UnitOfWork, Depends(_writing_unless_dry_run, scope="function", max_concurrency=8)
]

Forgotten = Annotated[
    Literal["refuse", "skip"],
    Query(
        description="`skip` leaves out the entries about forgotten users and items, and answers "
        "with one outcome per entry."
    ),
]
UserPath = Annotated[PathId, Path(description="The user's id.")]
ItemPath = Annotated[PathId, Path(description="The item's id.")]
RequestPath = Annotated[Token, Path(description="The deletion request's id.")]
JobPath = Annotated[Token, Path(description="The job's id.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries per page.")]
Cursor = Annotated[
    str | None, Query(max_length=MAX_ID_LENGTH, description="`next_cursor` of the previous page.")
]
IdempotencyKey = Annotated[
    Token | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated call with the same key returns the same deletion request.",
    ),
]
DEFAULT_PAGE = DEFAULT_LIMIT
