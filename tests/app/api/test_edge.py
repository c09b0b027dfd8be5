"""The edge of the REST API: HEAD, slashes at the end, prefixes, query forms, Allow and limits."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from app.api.schemas.items import ItemBody
from app.settings import Settings
from tests.app.api.test_routes import run, run_serving
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

RATING = {"rating": 4, "timestamp": 1_600_000_000}


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/items", "/items/i1", "/users/u1"])
def test_head_is_get_without_a_body(world: World, path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (answer.status_code, b"")
        assert answer.status_code == 200
        assert head.headers["content-type"] == answer.headers["content-type"]

    run(world, scenario)


def test_collections_answer_with_and_without_a_slash(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        bodies: dict[str, Any] = {
            "/items": [{"item_id": "n", "title": "N"}],
            "/users": [{"user_id": "n"}],
            "/interactions": [{"user_id": "n", "item_id": "n", **RATING}],
            "/forget": {"user_id": "n"},
        }
        for path, body in bodies.items():
            answer = await client.post(f"{path}/", json=body)
            assert answer.status_code in {200, 202}, (path, answer.text)
        for path in ("/items/", "/jobs/", "/releases/", "/forget/", "/healthz/"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/nothing/")).status_code == 404

    run(world, scenario)


@pytest.mark.parametrize("prefix", ["", "/privacy"])
def test_root_path_appears_in_links_whether_stripped_or_not(world: World, prefix: str) -> None:
    async def scenario() -> None:
        app = world.app(root_path="/privacy")
        async with client_of(app) as client:
            accepted = await client.post(f"{prefix}/forget/", json={"user_id": "u1"})
            location = accepted.headers["location"]
            assert location.startswith("/privacy/forget/req_")
            assert (await client.get(location)).status_code == 200
            page = await client.get(f"{prefix}/")
            assert 'href="web/dashboard.css"' in page.text
            assert '"/' not in page.text
            assert (await client.get(f"{prefix}/web/dashboard.js")).status_code == 200
            assert (await client.get("/privacyx/healthz")).status_code == 404

    asyncio.run(scenario())


def test_ids_that_no_path_can_say_are_reached_by_query(world: World) -> None:
    ids = ["..", ".", "x", "x/similar", "a/", "/", "50%", "?q=1&id=2", "#"]

    async def scenario(client: httpx.AsyncClient) -> None:
        items = [{"item_id": name, "title": f"T {name}"} for name in ids]
        assert (await client.post("/items", json=items)).status_code == 200
        await client.post("/users", json=[{"user_id": name} for name in ids])
        for name in ids:
            item = await client.get("/items", params={"id": name})
            assert item.json()["item_id"] == name
            assert (await client.get("/items/", params={"id": name})).json() == item.json()
            assert (await client.get("/similar/", params={"id": name})).status_code != 404
            assert (await client.get("/users", params={"id": name})).json()["user_id"] == name
            ranked = await client.get("/recommend", params={"id": name, "n": 2})
            assert (ranked.json()["user_id"], len(ranked.json()["items"])) == (name, 2)
            similar = await client.get("/similar", params={"id": name, "n": 2})
            assert similar.json()["item_id"] == name
            assert (await client.delete("/items", params={"id": name})).status_code == 204
            forgotten = await client.delete("/users", params={"id": name})
            assert forgotten.status_code == 202
            assert (await client.get("/recommend", params={"id": name})).status_code == 410
        assert (await client.get("/items", params={"id": ""})).status_code == 422

    run_serving(world, scenario)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/users"), ("GET", "/recommend")])
def test_a_query_with_several_ids_is_refused_as_a_whole(
    world: World, method: str, path: str
) -> None:
    """A caller who names two people must not believe that both were deleted."""

    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.request(method, f"{path}?id=u1&id=u2")
        assert answer.status_code == 422
        assert "one `id`" in answer.json()["detail"]
        for user_id in ("u1", "u2"):
            assert (await client.get(f"/users/{user_id}")).status_code == 200

    run_serving(world, scenario)


def test_encoded_slash_belongs_to_the_id(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        items = [{"item_id": "x", "title": "X"}, {"item_id": "x/similar", "title": "XS"}]
        await client.post("/items", json=items)
        assert (await client.get("/items/x%2Fsimilar")).json()["title"] == "XS"
        assert (await client.get("/items/x%2fsimilar/similar")).json()["item_id"] == "x/similar"
        assert (await client.get("/items/x/similar")).json()["item_id"] == "x"

    run_serving(world, scenario)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/items", "DELETE, GET, HEAD, POST"),
        ("PUT", "/items/", "DELETE, GET, HEAD, POST"),
        ("PUT", "/users", "DELETE, GET, HEAD, POST"),
        ("PATCH", "/users/?id=u1", "DELETE, GET, HEAD, POST"),
        ("PUT", "/recommend", "GET, HEAD, POST"),
        ("PUT", "/items/i1", "DELETE, GET, HEAD"),
        ("DELETE", "/forget", "GET, HEAD, POST"),
        ("GET", "/interactions", "POST"),
        ("HEAD", "/interactions", "POST"),
        ("POST", "/users/u1", "DELETE, GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_allow_lists_every_method_of_the_path(
    world: World, method: str, path: str, allowed: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)

    run(world, scenario)


def test_ten_thousand_items_fit_into_a_body() -> None:
    longest = ItemBody(item_id="i" * 200, title="é" * 400, attributes={"genre": ["g" * 100] * 2})
    entry = len(json.dumps(longest.model_dump()))
    assert entry * 10_000 <= Settings().max_body_bytes


def test_body_of_ten_thousand_items_is_stored(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        items = [
            {"item_id": f"n{n}", "title": "A title of usual length " * 5} for n in range(10_000)
        ]
        assert (await client.post("/items", json=items)).json() == {"stored": 10_000}

    run(world, scenario)


@pytest.mark.parametrize("path", ["privacy", "/a b", "http://host/x", "/a?b"])
def test_malformed_root_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="LETHE_ROOT_PATH"):
        Settings(root_path=path)
