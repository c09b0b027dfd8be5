"""Items and users: add, change, list, withdraw and forget through the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.app.api.test_routes import run, run_serving
from tests.support.gateway_world import ITEMS, USERS

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

_NEW = {"item_id": "films/new", "title": "New (2026)", "attributes": {"genre": ["Comedy", "Noir"]}}


async def _recommended(client: httpx.AsyncClient, user_id: str = "u1") -> dict[str, float]:
    """Return the scores of all items recommended to a user, in one answer."""
    answer = await client.get(
        f"/recommend/{user_id}", params={"n": ITEMS + 1, "exclude_seen": "false"}
    )
    assert answer.status_code == 200
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


def test_posted_item_is_recommended_at_once_and_withdrawn_item_is_not(world: World) -> None:
    world.settings = world.settings.model_copy(update={"candidates": ITEMS + 1})

    async def scenario(client: httpx.AsyncClient) -> None:
        before = await _recommended(client)
        assert _NEW["item_id"] not in before
        assert (await client.post("/items", json=[_NEW])).json() == {"stored": 1}
        after = await _recommended(client)
        assert set(after) == {*before, _NEW["item_id"]}
        assert 0 < after["films/new"] < 1
        assert {item_id: after[item_id] for item_id in before} == pytest.approx(before, abs=1e-6)

        gone = await client.delete("/items/films/new")
        assert (gone.status_code, gone.content) == (204, b"")
        assert await _recommended(client) == pytest.approx(before, abs=1e-6)

        # i0 is in the histories of users: the item is withdrawn, and the ratings stay.
        with world.uow(write=False) as uow:
            rated = uow.people.raters_of("i0")
        assert rated
        assert (await client.delete("/items/i0")).status_code == 204
        assert "i0" not in await _recommended(client, rated[0])
        with world.uow(write=False) as uow:
            assert uow.people.raters_of("i0") == rated
        back = {"item_id": "i0", "title": "Item 0", "attributes": {"genre": "Drama"}}
        assert (await client.post("/items", json=[back])).status_code == 200
        assert set(await _recommended(client)) == set(before)

    run_serving(world, scenario)


def test_items_are_added_changed_and_listed(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        several = [_NEW, {**_NEW, "title": "Newer"}, {"item_id": "z", "title": "Z"}]
        assert (await client.post("/items", json=several)).json() == {"stored": 2, "replaced": 1}
        assert (await client.get("/items/films/new")).json() == {
            "item_id": "films/new",
            "title": "Newer",
            "attributes": {"genre": ["Comedy", "Noir"]},
            "available": True,
        }
        await client.post("/items/withdraw", json={"item_ids": ["z"]})
        assert (await client.get("/items/z")).json()["available"] is False
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": 7} if cursor is None else {"limit": 7, "cursor": cursor}
            page = (await client.get("/items", params=query)).json()
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        ids = [item["item_id"] for item in items]
        assert ids == sorted({f"i{n}" for n in range(ITEMS)} | {"films/new", "z"})
        with world.uow(write=False) as uow:
            item_indices = {item.id: item.item_index for item in uow.people.items()}
        assert (item_indices["films/new"], item_indices["z"]) == (ITEMS, ITEMS + 1)

    run(world, scenario)


@pytest.mark.parametrize(
    "body",
    [
        [],
        [{"item_id": "a"}],
        [{"item_id": "", "title": "A"}],
        [{"item_id": "a", "title": "A\0"}],
        [{"item_id": "a", "title": "A", "attributes": {"genre": [1]}}],
        [{"item_id": "a", "title": "A", "attributes": {"ge\nnre": ["x"]}}],
        [{"item_id": "a", "title": "A", "attributes": {"genre": ["x"] * 33}}],
        [{"item_id": "a", "title": "A", "attributes": {f"n{n}": "x" for n in range(33)}}],
        [{"item_id": "a", "title": "A", "attributes": {"genre": "x" * 201}}],
        [{"item_id": "a", "title": "A", "stars": 5}],
    ],
)
def test_invalid_item_is_refused_with_the_whole_call(
    world: World, body: list[dict[str, Any]]
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/items", json=[_NEW, *body] if body else body)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-input")
        assert (await client.get("/items/films/new")).status_code == 404

    run(world, scenario)


def test_forgotten_and_unknown_items_are_refused(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/forget", json={"item_id": "i3"})).status_code == 202
        forgotten = {"item_id": "i3", "title": "Again"}
        refused = await client.post("/items", json=[_NEW, forgotten])
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/forgotten")
        assert (await client.get("/items/films/new")).status_code == 404
        for unknown in (
            await client.get("/items/i3"),
            await client.delete("/items/i3"),
            await client.delete("/items/none"),
            await client.post("/items/withdraw", json={"item_ids": ["i1", "none"]}),
        ):
            assert unknown.status_code == 404
            assert unknown.json()["type"] == "/problems/unknown-item"
        assert "none" in unknown.json()["detail"]
        assert (await client.get("/items/i1")).json()["available"] is True
        listed = (await client.get("/items", params={"limit": 200})).json()["items"]
        assert len(listed) == ITEMS - 1
        several = await client.post("/items/withdraw", json={"item_ids": ["i1", "i2", "i1"]})
        assert several.json() == {"withdrawn": 2}

    run(world, scenario)


def test_users_are_added_changed_and_read(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        bodies = [
            {"user_id": "a/b", "attributes": {"gender": "F"}},
            {"user_id": "u1", "attributes": {"age": "25"}},
        ]
        before = set(await _recommended(client))
        assert (await client.post("/users", json=bodies)).json() == {"stored": 2}
        assert (await client.get("/users/a/b")).json() == {
            "user_id": "a/b",
            "attributes": {"gender": "F"},
            "interactions": 0,
        }
        changed = (await client.get("/users/u1")).json()
        assert (changed["attributes"], changed["interactions"]) == ({"age": "25"}, 6)
        assert set(await _recommended(client)) == before
        assert await _recommended(client, "a/b")
        assert (await client.get("/users/none")).status_code == 404
        listed = {"user_id": "u1", "attributes": {"age": ["25"]}}
        assert (await client.post("/users", json=[listed])).status_code == 422

    run_serving(world, scenario)


def test_delete_user_creates_a_deletion_request(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        key = {"Idempotency-Key": "k"}
        accepted = await client.delete("/users/u1", headers=key)
        assert accepted.status_code == 202
        assert accepted.headers["location"] == f"/forget/{accepted.json()['id']}"
        assert (await client.get(accepted.headers["location"])).json() == accepted.json()
        same = await client.post("/forget", json={"user_id": "u1"}, headers=key)
        assert (same.status_code, same.json()["id"]) == (200, accepted.json()["id"])
        reused = await client.delete("/users/u2", headers=key)
        assert reused.json()["type"] == "/problems/idempotency-conflict"
        gone = await client.get("/users/u1")
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/user-forgotten")
        bodies = [{"user_id": "other"}, {"user_id": "u1"}]
        refused = await client.post("/users", json=bodies)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/forgotten")
        assert (await client.get("/users/other")).status_code == 404
        assert (await client.delete("/users/none")).status_code == 404

    run(world, scenario)


def test_several_users_are_forgotten_all_or_none(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        unknown_users = [f"x{n:02}" for n in range(12)]
        refused = await client.post("/users/forget", json={"user_ids": [*USERS, *unknown_users]})
        assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-user")
        assert "x09" in refused.json()["detail"]
        assert "x10" not in refused.json()["detail"]
        assert (await client.get("/forget")).json()["items"] == []
        assert (await client.get("/users/u1")).status_code == 200

        earlier = (await client.delete("/users/u2")).json()
        accepted = await client.post("/users/forget", json={"user_ids": ["u1", "u2", "u3", "u1"]})
        assert accepted.status_code == 202
        requests = accepted.json()["items"]
        assert len(requests) == 3
        assert requests[1]["id"] == earlier["id"]
        for user_id in ("u1", "u2", "u3"):
            assert (await client.get(f"/users/{user_id}")).status_code == 410
        assert (await client.get("/users/u4")).status_code == 200
        assert (await client.post("/users/forget", json={"user_ids": []})).status_code == 422

    run(world, scenario)
