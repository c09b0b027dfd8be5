"""A gateway repeats a request once if entries that its database lacked stopped the transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord
from app.domain.requests import RequestStatus
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI

    from app.storage.ledger import Ledger
    from app.storage.unit_of_work import UnitOfWorkFactory
    from tests.support.gateway_world import World


def lose_an_entry(factory: UnitOfWorkFactory) -> Ledger:
    """Write an entry whose transaction does not commit."""
    ledger = factory.ledger
    assert ledger is not None
    with factory(write=False) as uow:
        head = uow.state.ledger_head() or LedgerHead()
        record = LedgerRecord(event=LedgerEvent.CONSENTED, at=uow.state.now())
    ledger.append(head, [record], 1)
    return ledger


def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


@pytest.fixture
def app(world: World) -> FastAPI:
    return world.app()


def test_request_is_repeated_once(world: World, app: FastAPI) -> None:
    ledger = lose_an_entry(world.uow)
    response = call(app, "POST", "/forget", json={"user_id": "u1"})
    assert response.status_code == 202
    with world.uow(write=False) as uow:
        (request,) = uow.requests.page(10, None)
    assert response.json()["id"] == request.id
    assert ledger.last_number() == 2  # The lost one, and the accepted one.


def test_request_without_a_body_is_repeated(world: World, app: FastAPI) -> None:
    request_id = call(app, "POST", "/forget", json={"user_id": "u1"}).json()["id"]
    lose_an_entry(world.uow)
    response = call(app, "DELETE", f"/forget/{request_id}")
    assert response.status_code == 200
    assert response.json()["status"] == RequestStatus.CANCELLED.value


def test_request_that_is_stopped_again_gets_the_problem(world: World, app: FastAPI) -> None:
    lose_an_entry(world.uow)
    app.state.gateway.uow._reconcile = None
    response = call(app, "POST", "/forget", json={"user_id": "u1"})
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/ledger-ahead"
    assert response.headers["Retry-After"] == "1"
    with world.uow(write=False) as uow:
        assert uow.requests.page(10, None) == []


def test_unavailable_ledger_is_a_problem(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.storage.ledger_objects.LocalObjects.create", refuse)
    response = call(app, "POST", "/forget", json={"user_id": "u1"})
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/ledger-unavailable"
    assert call(app, "GET", "/forget").json()["items"] == []
