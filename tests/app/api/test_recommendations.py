"""Recommendation routes, against the application with an untrained release."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_world import ITEMS, USERS, client_of, serving, until_ready
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from fastapi import FastAPI

    from tests.support.gateway_world import World

ALL_ITEMS = {"n": ITEMS, "exclude_seen": "false"}


def run(
    world: World, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], **changes: Any
) -> None:
    """Run a scenario against an application with a live release."""
    world.flip(*world.publish(1))

    async def whole() -> None:
        async with serving(world.app(**changes)) as client:
            await until_ready(client)
            await scenario(client)

    asyncio.run(whole())


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_pages_have_no_gap_and_no_duplicate(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        whole = ids(await client.get("/recommend/u1", params=ALL_ITEMS))
        assert len(whole) == ITEMS
        paged: list[str] = []
        offset: int | None = 0
        while offset is not None:
            params = {"n": 7, "offset": offset, "exclude_seen": "false"}
            page = await client.get("/recommend/u1", params=params)
            assert [item["rank"] for item in page.json()["items"]] == list(
                range(offset + 1, offset + 1 + len(ids(page)))
            )
            paged += ids(page)
            offset = page.json()["next_offset"]
        assert sorted(paged) == sorted(whole)
        beyond = await client.get("/recommend/u1", params={"offset": 1000})
        assert (ids(beyond), beyond.json()["next_offset"]) == ([], None)

    # With 10 candidates per tier, every page but the first covers two tiers.
    run(world, scenario, candidates=10)


def test_attribute_filters_include_and_exclude_items(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        comedies = ids(
            await client.get("/recommend/u1", params={**ALL_ITEMS, "include": "genre:Comedy"})
        )
        others = ids(
            await client.get("/recommend/u1", params={**ALL_ITEMS, "exclude": "genre:Comedy"})
        )
        assert {int(item_id[1:]) % 2 for item_id in comedies} == {1}
        assert {int(item_id[1:]) % 2 for item_id in others} == {0}
        assert len(comedies) + len(others) == ITEMS
        both = [("include", f"genre:{name}") for name in ("Comedy", "Drama")]
        both += [("n", str(ITEMS)), ("exclude_seen", "0")]
        assert len(ids(await client.get("/recommend/u1", params=both))) == ITEMS
        posted = {
            "user_id": "u1",
            "include": {"genre": ["Comedy"]},
            "n": ITEMS,
            "exclude_seen": False,
        }
        assert ids(await client.post("/recommend", json=posted)) == comedies
        none = await client.get("/recommend/u1", params={"include": "genre:Western"})
        assert ids(none) == []
        unknown = await client.get("/recommend/u1", params={"include": "color:red"})
        assert problem(unknown) == (422, "invalid-input")
        assert "genre" in unknown.json()["detail"]
        malformed = await client.get("/recommend/u1", params={"exclude": "Comedy"})
        assert problem(malformed) == (422, "invalid-input")

    run(world, scenario)


def test_given_items_are_scored_by_the_release(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        item_ids = ["i3", "i4", "i17", "i4"]
        answer = await client.post("/recommend", json={"user_id": "u1", "item_ids": item_ids})
        assert sorted(ids(answer)) == ["i17", "i3", "i4"]
        body = answer.json()
        expected = world.scores(body["release"], "u1", ids(answer))
        assert [item["score"] for item in body["items"]] == pytest.approx(expected, abs=1e-5)
        assert expected == sorted(expected, reverse=True)
        unknown = await client.post("/recommend", json={"user_id": "u1", "item_ids": ["i3", "x"]})
        assert problem(unknown) == (404, "unknown-item")
        assert "x" in unknown.json()["detail"]
        world.forget(item_id="i3")
        assert sorted(
            ids(await client.post("/recommend", json={"user_id": "u1", "item_ids": item_ids}))
        ) == ["i17", "i4"]

    run(world, scenario)


def test_batch_answers_equal_single_answers(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        world.forget("u3")
        user_ids = ["u1", "unknown", "u3", "u2"]
        answer = (await client.post("/recommend/batch", json={"user_ids": user_ids, "n": 5})).json()
        assert [entry["user_id"] for entry in answer["items"]] == ["u1", "u2"]
        for entry in answer["items"]:
            path = f"/recommend/{entry['user_id']}"
            single = (await client.get(path, params={"n": 5})).json()
            assert [i["item_id"] for i in entry["items"]] == [i["item_id"] for i in single["items"]]
            assert [i["score"] for i in entry["items"]] == pytest.approx(
                [i["score"] for i in single["items"]], abs=1e-5
            )
        assert [(entry["user_id"], entry["status"]) for entry in answer["refused"]] == [
            ("unknown", 404),
            ("u3", 410),
        ]

    run(world, scenario)


def test_visitor_gets_recommendations_and_is_not_stored(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        before = _counts(world)
        with world.uow(write=False) as uow:
            history = [
                {"item_id": rated.item_id, "rating": rated.rating}
                for rated in uow.people.history("u1")
            ]
        answer = await client.post("/recommend", json={"history": history, "n": 5})
        known = await client.get("/recommend/u1", params={"n": 5})
        assert answer.json()["user_id"] is None
        assert ids(answer) == ids(known)
        assert [i["score"] for i in answer.json()["items"]] == pytest.approx(
            [i["score"] for i in known.json()["items"]], abs=1e-5
        )
        by_attributes = await client.post("/recommend", json={"attributes": {"gender": "F"}})
        assert len(ids(by_attributes)) == 10
        assert _counts(world) == before
        unknown = {"history": [{"item_id": "x", "rating": 4}]}
        assert problem(await client.post("/recommend", json=unknown)) == (404, "unknown-item")
        both = {"user_id": "u1", "history": history}
        assert problem(await client.post("/recommend", json=both)) == (422, "invalid-input")

    run(world, scenario)


def _counts(world: World) -> dict[str, int]:
    with world.uow(write=False) as uow:
        return uow.people.counts()


def test_popular_items_are_returned_only_with_fallback(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert problem(await client.get("/recommend/unknown")) == (404, "unknown-user")
        popular = await client.get("/recommend/unknown", params={"fallback": True})
        body = popular.json()
        assert (body["ranked_by"], body["release"], body["user_id"]) == (
            "popularity",
            None,
            "unknown",
        )
        assert [item["score"] for item in body["items"]] == [None] * 10
        assert "etag" not in popular.headers
        world.forget("u1")
        assert (await client.get("/recommend/u1", params={"fallback": True})).status_code == 410
        known = (await client.get("/recommend/u2", params={"fallback": True})).json()
        assert known["ranked_by"] == "model"

    run(world, scenario)


def test_without_a_release_fallback_returns_the_first_stage(world: World) -> None:
    async def whole() -> None:
        async with serving(world.app()) as client:
            app: FastAPI = client._transport.app  # type: ignore[attr-defined]
            await asyncio.to_thread(
                wait_until,
                lambda: app.state.gateway.replica.answer_lease.valid,
                "the replica is not registered",
            )
            assert problem(await client.get("/recommend/u1")) == (503, "no-release")
            answer = (await client.get("/recommend/u1", params={"fallback": True})).json()
            assert (answer["ranked_by"], answer["release"]) == ("first-stage", None)
            assert len(answer["items"]) == 10

    asyncio.run(whole())


def test_after_the_deadline_the_first_stage_answers(world: World) -> None:
    """The scoring threads are blocked, so that the model cannot answer in time."""
    world.flip(*world.publish(1))
    go = threading.Event()

    async def whole() -> None:
        async with serving(world.app(scoring_threads=1, scoring_queue=2)) as client:
            await until_ready(client)
            service = client._transport.app.state.gateway.recommender  # type: ignore[attr-defined]
            plain = (await client.get("/recommend/u1", params={"deadline_ms": 60_000})).json()
            assert plain["ranked_by"] == "model"
            held = [asyncio.create_task(service.scoring.run(lambda: go.wait(30))) for _ in "ab"]
            await asyncio.sleep(0)
            try:
                # The queue is full as well, so a request without a deadline is refused.
                full = await client.get("/recommend/u1")
                assert problem(full) == (503, "overloaded")
                assert 1 <= int(full.headers["retry-after"]) <= 60
                late = await client.get("/recommend/u1", params={"deadline_ms": 50})
                assert late.json()["ranked_by"] == "first-stage"
                assert late.json()["release"] is None
                assert "etag" not in late.headers
                assert len(ids(late)) == 10
                world.forget("u1")
                gone = await client.get("/recommend/u1", params={"deadline_ms": 50})
                assert gone.status_code == 410
            finally:
                go.set()
                await asyncio.gather(*held)

    asyncio.run(whole())


def test_explanation_is_the_score_change_without_each_rating(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = (await client.get("/recommend/u1", params={"n": 4, "explain": True})).json()
        with world.uow(write=False) as uow:
            history = uow.people.history("u1")
        items = [item["item_id"] for item in answer["items"]]
        full = world.scores(answer["release"], "u1", items)
        for position, item in enumerate(answer["items"]):
            assert len(item["because"]) == 3
            effects = [abs(reason["effect"]) for reason in item["because"]]
            assert effects == sorted(effects, reverse=True)
            for reason in item["because"]:
                without = [rated for rated in history if rated.item_id != reason["item_id"]]
                assert len(without) == len(history) - 1
                reduced = world.scores(answer["release"], "u1", items, history=without)
                assert reason["effect"] == pytest.approx(
                    full[position] - reduced[position], abs=1e-5
                )
        plain = (await client.get("/recommend/u1", params={"n": 4})).json()
        assert "because" not in plain["items"][0]
        refused = await client.get("/recommend/u1", params={"n": 21, "explain": True})
        assert problem(refused) == (422, "invalid-input")

    run(world, scenario)


def test_cached_answer_is_valid_until_data_or_release_changes(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = await client.get("/recommend/u1")
        tag = first.headers["etag"]
        assert first.headers["cache-control"] == "private, no-cache"
        for sent in (tag, f'"other", W/{tag}'):
            again = await client.get("/recommend/u1", headers={"If-None-Match": sent})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == "private, no-cache"
        world.forget("u2")
        changed = await client.get("/recommend/u1", headers={"If-None-Match": tag})
        assert changed.status_code == 200
        tag = changed.headers["etag"]
        await asyncio.to_thread(world.roll_out, 2)
        swapped = await client.get("/recommend/u1", headers={"If-None-Match": tag})
        assert (swapped.status_code, swapped.headers["etag"] != tag) == (200, True)
        world.forget("u1")
        for sent in (tag, swapped.headers["etag"]):
            gone = await client.get("/recommend/u1", headers={"If-None-Match": sent})
            assert gone.status_code == 410

    run(world, scenario)


def test_similar_items_exclude_forgotten_users(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        liked = _likes(world, USERS)
        item = next(item for likes in liked.values() for item in likes)
        answer = await client.get(f"/items/{item}/similar", params={"n": 100})
        together = {
            other for likes in liked.values() if item in likes for other in likes if other != item
        }
        assert set(ids(answer)) == together
        scores = [entry["score"] for entry in answer.json()["items"]]
        assert scores == sorted(scores, reverse=True)
        cached = {"If-None-Match": answer.headers["etag"]}
        again = await client.get(f"/items/{item}/similar", params={"n": 100}, headers=cached)
        assert again.status_code == 304
        for user, likes in liked.items():
            if item in likes:
                world.forget(user)
        assert ids(await client.get(f"/items/{item}/similar", headers=cached)) == []
        assert problem(await client.get("/items/x/similar")) == (404, "unknown-item")
        world.forget(item_id="i1")
        assert problem(await client.get("/items/i1/similar")) == (404, "unknown-item")

    run(world, scenario)


def _likes(world: World, users: list[str]) -> dict[str, set[str]]:
    with world.uow(write=False) as uow:
        return {
            user: {rated.item_id for rated in uow.people.history(user) if rated.rating > 3}
            for user in users
        }


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/recommend/u1?n=0", {}),
        ("GET", "/recommend/u1?n=-1", {}),
        ("GET", "/recommend/u1?n=99999999999999999999", {}),
        ("GET", "/recommend/u1?n=ten", {}),
        ("GET", "/recommend/u1?offset=-1", {}),
        ("GET", "/recommend/u1?deadline_ms=0", {}),
        ("GET", "/recommend/u1?" + "&".join(["include=genre:a"] * 51), {}),
        ("GET", "/items/i1/similar?n=0", {}),
        ("POST", "/recommend", {"json": {"user_id": "u1", "item_ids": []}}),
        ("POST", "/recommend", {"json": {"user_id": "u1", "item_ids": ["i1"] * 10_000}}),
        ("POST", "/recommend", {"json": {"user_id": "u1", "surprise": 1}}),
        ("POST", "/recommend", {"json": {"history": [{"item_id": "i1", "rating": 9}]}}),
        (
            "POST",
            "/recommend",
            {"json": {"history": [{"item_id": "i1", "rating": 4}] * 2}},
        ),
        ("POST", "/recommend", {"json": {"user_id": "u1", "explain": True, "n": 21}}),
        ("POST", "/recommend", {"json": {"user_id": "u1", "include": {"genre": []}}}),
        ("POST", "/recommend/batch", {"json": {"user_ids": []}}),
        ("POST", "/recommend/batch", {"json": {"user_ids": ["u1"] * 51}}),
    ],
)
def test_invalid_queries_are_refused(
    world: World, method: str, path: str, options: dict[str, Any]
) -> None:
    async def ask() -> httpx.Response:
        async with client_of(world.app()) as client:
            return await client.request(method, path, **options)

    assert problem(asyncio.run(ask())) == (422, "invalid-input")
