"""Routes refuse unknown and repeated query parameters, and name the nearest one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from app.api.routes import ROUTES
from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

#: Probes and the dashboard answer whatever a load balancer or a browser adds.
LENIENT = {"/", "/healthz", "/readyz", "/metrics"}
CALLS = [
    (method, path) for path, methods in ROUTES for method in sorted(methods) if path not in LENIENT
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_unknown_parameter_is_refused_by_every_other_route(
    world: World, method: str, path: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        url = re.sub(r"{\w+(:path)?}", "x", path)
        answer = await client.request(method, url, params={"no_such_parameter": "1"})
        assert answer.status_code == 422, answer.text
        problem = answer.json()
        assert problem["type"] == "/problems/invalid-input"
        (error,) = problem["errors"]
        assert error["location"] == ["query", "no_such_parameter"]
        assert error["code"] == "unknown_parameter"

    run(world, scenario)


@pytest.mark.parametrize(
    ("path", "name", "nearest"),
    [
        ("/forget", "state", "status"),
        ("/forget", "created_since", "created_after"),
        ("/forget", "Limit", "limit"),
        ("/items", "curser", "cursor"),
        ("/recommend/u1", "exclude_sen", "exclude_seen"),
        ("/forget/req_1/certificate", "numbr", "number"),
    ],
)
def test_error_names_the_nearest_parameter(
    world: World, path: str, name: str, nearest: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get(path, params={name: "1"})
        errors = {error["location"][1]: error["detail"] for error in answer.json()["errors"]}
        assert f"The nearest one is `{nearest}`" in errors[name]

    run(world, scenario)


def test_call_without_parameters_says_so(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/forget/req_1", params={"verbose": "1"})
        (error,) = answer.json()["errors"]
        assert error["detail"] == "This call has no query parameters."
        # The value of an unknown parameter is never repeated.
        answer = await client.get("/forget", params={"user": "jane@example.com"})
        assert "jane" not in answer.text

    run(world, scenario)


def test_probes_and_the_dashboard_answer_with_any_parameter(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in LENIENT:
            query = "v=1&v=2&utm_source=mail"
            assert (await client.get(f"{path}?{query}")).status_code != 422, path

    run(world, scenario)


def test_many_unknown_parameters_have_a_short_answer(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/forget", params={f"p{n}": "1" for n in range(2000)})
        assert (answer.status_code, len(answer.json()["errors"])) == (422, 10)

    run(world, scenario)


def test_repeated_parameter_is_refused_unless_it_is_a_list(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for query in ("user_id=u1&user_id=u2", "limit=1&limit=2", "user_id=u1&user_id=u1"):
            answer = await client.get(f"/forget?{query}")
            assert answer.status_code == 422, query
            (error,) = answer.json()["errors"]
            assert error["code"] == "repeated_parameter"
            assert error["location"] == ["query", query.partition("=")[0]]
        assert (await client.get("/forget?status=scheduled&status=dead")).status_code == 200
        # The second value alone would record a deletion.
        url = "/forget?dry_run=true&dry_run=false"
        assert (await client.post(url, json={"user_id": "u1"})).status_code == 422
        assert (await client.get("/forget")).json()["total"] == 0

    run(world, scenario)
