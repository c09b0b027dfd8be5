"""Calls that store data: entries about forgotten users and items are refused or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

TIME = 1_600_000_000


def rating(user_id: str, item_id: str = "i1", **changes: Any) -> dict[str, Any]:
    return {"user_id": user_id, "item_id": item_id, "rating": 4, "timestamp": TIME} | changes


def entries(path: str) -> list[dict[str, Any]]:
    """Return entries about `kept`, about the forgotten one, and about `kept` again."""
    if path == "/interactions":
        return [rating("u2"), rating("u1"), rating("u2")]
    if path == "/users":
        return [{"user_id": user_id} for user_id in ("u2", "u1", "u2")]
    return [{"item_id": item_id, "title": item_id} for item_id in ("i2", "i9", "i2")]


async def forget(client: httpx.AsyncClient) -> None:
    await client.post("/forget", json={"user_id": "u1"})
    await client.post("/forget", json={"item_id": "i9"})


@pytest.mark.parametrize("path", ["/interactions", "/users", "/items"])
def test_error_has_the_numbers_of_entries_and_no_id(world: World, path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await forget(client)
        with world.uow(write=False) as uow:
            version = uow.state.data_version()
        answer = await client.post(path, json=entries(path))
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/forgotten")
        detail = answer.json()["detail"]
        assert "entries 2, counted from 1" in detail
        assert "forgotten=skip" in detail
        assert not any(forgotten in detail for forgotten in ("u1", "i9"))
        with world.uow(write=False) as uow:
            assert uow.state.data_version() == version

    run(world, scenario)


@pytest.mark.parametrize("path", ["/interactions", "/users", "/items"])
def test_skip_answers_with_one_outcome_per_entry(world: World, path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await forget(client)
        answer = await client.post(path, params={"forgotten": "skip"}, json=entries(path))
        assert answer.status_code == 200
        assert answer.json() == {
            "stored": 1,
            "replaced": 1,
            "forgotten": 1,
            "outcomes": ["replaced", "forgotten", "stored"],
        }
        only = await client.post(path, params={"forgotten": "skip"}, json=[entries(path)[1]])
        assert only.json() == {"stored": 0, "forgotten": 1, "outcomes": ["forgotten"]}
        assert (await client.get("/users/u1")).status_code == 410
        assert (await client.get("/items/i9")).status_code == 404
        wrong = await client.post(path, params={"forgotten": "ignore"}, json=entries(path))
        assert wrong.status_code == 422

    run(world, scenario)


def test_outcomes_of_ratings(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await forget(client)
        await client.post("/forget", json={"user_id": "u3", "item_ids": ["i9"]})
        await client.post("/interactions", json=[rating("u2", timestamp=TIME + 9)])
        rows = [
            (rating("u2"), "older"),
            (rating("u4", timestamp=TIME + 1), "older"),
            (rating("u4", timestamp=TIME + 2), "replaced"),
            (rating(" u4", timestamp=TIME + 2), "stored"),
            (rating("u4", timestamp=TIME), "older"),
            (rating("u4", "i9"), "forgotten"),
            (rating("u1", "i2"), "forgotten"),
            (rating("u5", "i2"), "stored"),
        ]
        answer = await client.post(
            "/interactions", params={"forgotten": "skip"}, json=[row for row, _ in rows]
        )
        assert answer.json() == {
            "stored": 2,
            "older": 3,
            "replaced": 1,
            "forgotten": 2,
            "outcomes": [outcome for _, outcome in rows],
        }

    run(world, scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/forget", {"user_id": "unknown"}),
        ("/forget", {"item_id": "unknown"}),
        ("/users/forget", {"user_ids": ["unknown"]}),
    ],
)
def test_404_of_a_deletion_does_not_advise_to_post_data(
    world: World, path: str, body: dict[str, Any]
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, json=body)
        detail = answer.json()["detail"]
        assert answer.status_code == 404
        assert not any(word in detail.lower() for word in ("add ", "post", "import"))
        assert ("suppress_unknown" in detail) == ("item_id" not in body)

    run(world, scenario)
