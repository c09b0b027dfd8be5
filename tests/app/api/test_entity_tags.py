"""Entity tags: a cached answer is valid for one question, one user and one state of the data."""

from __future__ import annotations

import asyncio
import string
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from app.domain.catalog import User
from app.services.users import store_users
from tests.app.api.test_recommendations import problem, run
from tests.support.gateway_world import ITEMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from tests.support.gateway_world import World


async def revalidate(client: httpx.AsyncClient, path: str, tag: str) -> httpx.Response:
    return await client.get(path, headers={"If-None-Match": tag})


@pytest.mark.parametrize(
    "other",
    [
        "/recommend/u1?n=5",
        "/recommend/u1?offset=10",
        "/recommend/u1?exclude_seen=false",
        "/recommend/u1?include=genre:Comedy",
        "/recommend/u1?exclude=genre:Comedy",
        "/recommend/u1?explain=true",
        "/recommend/u2",
    ],
)
def test_a_tag_of_one_question_is_not_valid_for_another(world: World, other: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        tag = (await client.get("/recommend/u1")).headers["etag"]
        assert (await revalidate(client, "/recommend/u1", tag)).status_code == 304
        answer = await revalidate(client, other, tag)
        assert answer.status_code == 200
        assert answer.headers["etag"] != tag
        assert (await revalidate(client, other, answer.headers["etag"])).status_code == 304

    run(world, scenario)


def test_existence_and_validity_are_checked_before_the_tag(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        tag = (await client.get("/recommend/u1")).headers["etag"]
        assert problem(await revalidate(client, "/recommend/unknown", tag)) == (404, "unknown-user")
        malformed = await revalidate(client, "/recommend/a%00b", tag)
        assert problem(malformed) == (422, "invalid-input")
        fallback = await revalidate(client, "/recommend/unknown?fallback=true", tag)
        assert (fallback.status_code, fallback.json()["ranked_by"]) == (200, "popularity")

    run(world, scenario)


def rate(user_id: str) -> Callable[[httpx.AsyncClient, World], Awaitable[None]]:
    async def change(client: httpx.AsyncClient, _: World) -> None:
        rating = {"user_id": user_id, "item_id": "i29", "rating": 2.5, "timestamp": 5}
        assert (await client.post("/interactions", json=[rating])).is_success

    return change


async def describe_asker(_: httpx.AsyncClient, world: World) -> None:
    with world.uow() as uow:
        store_users(uow, world.pseudonyms, [User(id="u1", attributes={"gender": "F"})])


async def forget_another(_: httpx.AsyncClient, world: World) -> None:
    world.forget("u2")


async def forget_item(_: httpx.AsyncClient, world: World) -> None:
    world.forget(item_id="i3")


async def add_item(client: httpx.AsyncClient, _: World) -> None:
    new = {"item_id": "new", "title": "New"}
    assert (await client.post("/items", json=[new])).is_success


async def swap_release(_: httpx.AsyncClient, world: World) -> None:
    await asyncio.to_thread(world.roll_out, 2)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (rate("u2"), 304),
        (rate("someone-new"), 304),
        (rate("u1"), 200),
        (describe_asker, 200),
        (forget_another, 200),
        (forget_item, 200),
        (add_item, 200),
        (swap_release, 200),
    ],
)
def test_a_cached_answer_is_valid_until_something_changes_that_concerns_it(
    world: World, change: Callable[[httpx.AsyncClient, World], Awaitable[None]], status: int
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        tag = (await client.get("/recommend/u1")).headers["etag"]
        await change(client, world)
        answer = await revalidate(client, "/recommend/u1", tag)
        assert answer.status_code == status
        assert (answer.headers["etag"] == tag) == (status == 304)

    run(world, scenario)


@pytest.mark.parametrize("user_id", ['a"b', "ä,W/x", "日本", "x" * 200, "../u1", "u1?n=5"])
def test_a_tag_reveals_neither_ids_nor_versions(world: World, user_id: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow() as uow:
            store_users(uow, world.pseudonyms, [User(id=user_id)])
        path = f"/recommend/{quote(user_id, safe='')}"
        tag = (await client.get(path)).headers["etag"]
        assert tag[0] == tag[-1] == '"'
        assert len(tag) == 66
        assert set(tag[1:-1]) <= set(string.hexdigits)
        assert (await revalidate(client, path, tag)).status_code == 304

    run(world, scenario)


def test_a_tag_of_one_list_of_similar_items_is_not_valid_for_another(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow(write=False) as uow:
            liked = [row.item_id for row in uow.people.history("u1") if row.rating > 3]
            raters = uow.people.raters_of(liked[0])
        path = f"/items/{liked[0]}/similar"
        tag = (await client.get(path)).headers["etag"]
        assert (await revalidate(client, path, tag)).status_code == 304
        for other in (f"/items/{liked[1]}/similar", f"{path}?n=1", f"{path}?include=genre:Comedy"):
            assert (await revalidate(client, other, tag)).status_code == 200
        for user_id in raters:
            world.forget(user_id)
        assert (await revalidate(client, path, tag)).json()["items"] == []

    run(world, scenario)


def test_a_tag_is_not_valid_again_after_the_log_was_pruned(world: World) -> None:
    """No state of a shortened change log may look like the state before a deletion."""

    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow() as uow:
            uow.state.bump("interactions")
        tag = (await client.get("/recommend/u1", params={"n": ITEMS})).headers["etag"]
        world.forget("u2")
        with world.uow.database.write.begin() as connection:
            connection.exec_driver_sql("DELETE FROM data_changes")
        again = await revalidate(client, f"/recommend/u1?n={ITEMS}", tag)
        assert again.status_code == 200

    run(world, scenario)
