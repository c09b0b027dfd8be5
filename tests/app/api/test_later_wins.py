"""`POST /interactions`: the later rating wins, and the answer counts what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World


def row(rating: float, timestamp: int, user_id: str = "u1", item_id: str = "i1") -> dict[str, Any]:
    return {"user_id": user_id, "item_id": item_id, "rating": rating, "timestamp": timestamp}


def stored_rating(world: World, user_id: str, item_id: str) -> tuple[float, int]:
    with world.uow(write=False) as uow:
        rows = {r.item_id: r for r in uow.people.interactions() if r.user_id == user_id}
    return rows[item_id].rating, rows[item_id].timestamp


def test_older_rating_replaces_no_later_one_and_is_counted(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def post(*rows: dict[str, Any]) -> Any:
            return (await client.post("/interactions", json=list(rows))).json()

        assert await post(row(0.5, 1_600_000_000)) == {"stored": 1}
        replay = [row(3, 851_866_703), row(4, 851_866_703, item_id="i2")]
        await client.post("/interactions", json=[row(2, 1_600_000_000, item_id="i2")])
        assert await post(*replay) == {"stored": 0, "older": 2}
        assert stored_rating(world, "u1", "i1") == (0.5, 1_600_000_000)
        # In one call the order of the entries does not matter.
        assert await post(row(5, 1_600_000_002), row(1, 1_600_000_001)) == {"stored": 1, "older": 1}
        assert stored_rating(world, "u1", "i1") == (5, 1_600_000_002)
        # A correction at the same time is the last one written.
        assert await post(row(4.5, 1_600_000_002)) == {"stored": 1}
        assert stored_rating(world, "u1", "i1") == (4.5, 1_600_000_002)

    run(world, scenario)


def test_ratings_of_forgotten_persons_can_be_skipped(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/forget", json={"user_id": "u1"})
        rows = [row(4, 1_600_000_000), row(4, 1_600_000_000, user_id="u2")]
        refused = await client.post("/interactions", json=rows)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/forgotten")
        skipped = await client.post("/interactions?forgotten=skip", json=rows)
        assert skipped.json() == {
            "stored": 1,
            "forgotten": 1,
            "outcomes": ["forgotten", "stored"],
        }
        assert (await client.post("/interactions?forgotten=x", json=rows)).status_code == 422
        assert stored_rating(world, "u2", "i1") == (4, 1_600_000_000)

    run(world, scenario)


def test_known_users_of_a_list_are_forgotten_and_unknown_ids_reported(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        body = {"user_ids": ["u1", "stranger", "u2"]}
        assert (await client.post("/users/forget", json=body)).status_code == 404
        answer = await client.post("/users/forget?unknown=report", json=body)
        assert (answer.status_code, len(answer.json()["items"])) == (202, 2)
        assert answer.json()["unknown"] == ["stranger"]
        assert (await client.get("/users/u2")).status_code == 410

    run(world, scenario)


@pytest.mark.parametrize("query", ["", "?unknown=report"])
def test_unknown_users_of_a_list_can_be_suppressed(world: World, query: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        body = {"user_ids": ["u1", "stranger", " stranger"], "suppress_unknown": True}
        answer = await client.post(f"/users/forget{query}", json=body)
        assert (answer.status_code, len(answer.json()["items"])) == (202, 2)
        assert answer.json()["unknown"] == ([] if query else None)
        rows = [row(4, 1_600_000_000, user_id="stranger")]
        assert (await client.post("/interactions", json=rows)).status_code == 409
        assert (await client.post("/users", json=[{"user_id": "stranger"}])).status_code == 409

    run(world, scenario)


def test_future_times_have_one_bound(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/interactions", json=[row(4, 2_147_483_000)])
        assert answer.status_code == 422
        assert "at most a day ahead" in answer.text

    run(world, scenario)


@pytest.mark.parametrize("field", ["rating", "timestamp"])
def test_truth_value_is_no_rating_and_no_time(world: World, field: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/interactions", json=[row(4, 1_600_000_000) | {field: True}])
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["location"] == ["body", "0", field]

    run(world, scenario)
