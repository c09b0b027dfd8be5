"""Problem documents: the public types and statuses, and the fields of the documents."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest

from app.api.problems import DOMAIN_PROBLEMS, KINDS, kind_of
from app.domain import errors
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

LOCKED = {
    "bad-request": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "not-found": 404,
    "no-such-path": 404,
    "unknown-user": 404,
    "unknown-item": 404,
    "unknown-interaction": 404,
    "unknown-request": 404,
    "unknown-list": 404,
    "unknown-job": 404,
    "certificate-not-ready": 404,
    "unknown-certificate": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "not-cancellable": 409,
    "illegal-transition": 409,
    "forgotten": 409,
    "idempotency-conflict": 409,
    "job-running": 409,
    "job-not-cancellable": 409,
    "stale-data": 409,
    "release-exists": 409,
    "nothing-to-train": 409,
    "user-forgotten": 410,
    "request-timeout": 408,
    "body-too-large": 413,
    "list-too-long": 413,
    "unsupported-media-type": 415,
    "misdirected": 421,
    "invalid-input": 422,
    "internal": 500,
    "unavailable": 503,
    "overloaded": 503,
    "no-release": 503,
    "database-unavailable": 503,
    "ledger-unavailable": 503,
    "ledger-ahead": 503,
    "restoring": 503,
    "ledger-damaged": 503,
    "replica-not-ready": 503,
    "engine": 503,
}


def call(world: World, method: str, path: str, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(world.app()) as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def check_shape(response: httpx.Response, code: str) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == response.status_code == LOCKED[code]
    assert document["instance"].startswith("urn:uuid:")
    extra = {"errors"} if code == "invalid-input" and "errors" in document else set()
    assert set(document) == {"type", "title", "status", "detail", "instance"} | extra
    return document


def test_types_and_statuses_are_locked() -> None:
    assert {code: kind.status for code, kind in KINDS.items()} == LOCKED


def test_every_domain_error_has_a_problem_kind() -> None:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.LetheError):
            assert kind_of(kind).code == kind.code or kind_of(kind).code == "internal"
    assert kind_of(errors.LeaseLostError) is DOMAIN_PROBLEMS[errors.LetheError]


@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("GET", "/nowhere", {}, "no-such-path"),
        ("PUT", "/forget", {"json": {}}, "method-not-allowed"),
        ("GET", "/recommend/unknown", {}, "unknown-user"),
        ("GET", "/recommend/u1", {}, "replica-not-ready"),
        ("GET", "/jobs/job_x", {}, "unknown-job"),
        ("GET", "/forget/req_x", {}, "unknown-request"),
        ("POST", "/forget", {"json": {"user_id": "unknown"}}, "unknown-user"),
        ("POST", "/forget", {"json": {"item_id": "nothing"}}, "unknown-item"),
        (
            "POST",
            "/forget",
            {"json": {"user_id": "u1", "item_ids": ["nothing"]}},
            "unknown-interaction",
        ),
        ("POST", "/forget", {"content": b"{}"}, "unsupported-media-type"),
        (
            "POST",
            "/forget",
            {"content": b"\xff", "headers": {"Content-Type": "application/json"}},
            "bad-request",
        ),
    ],
)
def test_error_is_a_problem_document(
    world: World, method: str, path: str, options: dict[str, Any], code: str
) -> None:
    check_shape(call(world, method, path, **options), code)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        {"user_id": 42.5},
        {"user_id": ""},
        {"user_id": "x" * 201},
        {"user_id": "a\x00b"},
        {"user_id": "\ud800"},
        {"user_id": "u1", "item_ids": []},
        {"user_id": "u1", "item_ids": None},
        {"user_id": "u1", "item_id": "i1"},
        {"user_id": "u1", "item_ids": ["i1"] * 1001},
        {"item_ids": ["i1"]},
        {"user_id": "u1", "secret": 1},
        {"user_id": "u1", "\ud800": 1},
    ],
)
def test_malformed_deletion_request_is_422_without_its_input(world: World, body: Any) -> None:
    # httpx cannot encode lone surrogates.
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    response = call(world, "POST", "/forget", content=content, headers=headers)
    check_shape(response, "invalid-input")
    assert "xxxx" not in response.text
    with world.uow(write=False) as uow:
        assert uow.requests.page(10, None) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_body_above_the_limit_is_413(world: World, chunked: bool) -> None:
    body = b'{"user_id": "' + b"x" * world.settings.max_body_bytes + b'"}'

    async def parts() -> Any:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"Content-Type": "application/json"}
    content = parts() if chunked else body
    response = call(world, "POST", "/forget", content=content, headers=headers)
    check_shape(response, "body-too-large")


def test_unexpected_error_is_500_without_its_message(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    app = world.app()

    @app.get("/broken/{user_id}", include_in_schema=False)
    def broken(user_id: str) -> None:
        raise RuntimeError(f"the secret of {user_id}")

    async def ask() -> httpx.Response:
        async with client_of(app) as client:
            return await client.get("/broken/u1")

    response = asyncio.run(ask())
    check_shape(response, "internal")
    logged = capsys.readouterr()
    assert "secret" not in response.text + logged.out + logged.err
    assert "RuntimeError" in logged.out + logged.err


def test_503_has_a_retry_after_header(world: World) -> None:
    assert call(world, "GET", "/recommend/u1").headers["retry-after"] == "1"


def test_problem_types_can_be_fetched(world: World) -> None:
    for code, status in LOCKED.items():
        kind = call(world, "GET", f"/problems/{code}").json()
        assert kind["status"] == status
        assert kind["meaning"]
