"""What a shop asks of recommendations, against the real application and a real release."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_world import (
    ITEMS,
    USERS,
    client_of,
    serving,
    until_ready,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from fastapi import FastAPI

    from tests.support.gateway_world import World

EVERYTHING = {"n": ITEMS, "exclude_seen": "false"}


def run(
    world: World, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], **changes: Any
) -> None:
    """Run a scenario against an application that serves a first release."""
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


def test_pages_follow_each_other_without_gap_or_repetition(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        whole = ids(await client.get("/recommend/u1", params=EVERYTHING))
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

    # Tiers of ten: every page but the first reaches into another one.
    run(world, scenario, candidates=10)


def test_filters_by_attribute(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        comedies = ids(
            await client.get("/recommend/u1", params={**EVERYTHING, "include": "genre:Comedy"})
        )
        others = ids(
            await client.get("/recommend/u1", params={**EVERYTHING, "exclude": "genre:Comedy"})
        )
        assert {int(each[1:]) % 2 for each in comedies} == {1}
        assert {int(each[1:]) % 2 for each in others} == {0}
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
        unknown = await client.get("/recommend/u1", params={"include": "colour:red"})
        assert problem(unknown) == (422, "invalid-input")
        assert "genre" in unknown.json()["detail"]
        malformed = await client.get("/recommend/u1", params={"exclude": "Comedy"})
        assert problem(malformed) == (422, "invalid-input")

    run(world, scenario)


def test_given_items_are_ranked_by_the_release(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        given = ["i3", "i4", "i17", "i4"]
        answer = await client.post("/recommend", json={"user_id": "u1", "item_ids": given})
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
            ids(await client.post("/recommend", json={"user_id": "u1", "item_ids": given}))
        ) == ["i17", "i4"]

    run(world, scenario)


def test_several_users_in_one_call(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        world.forget("u3")
        asked = ["u1", "nobody", "u3", "u2"]
        answer = (await client.post("/recommend/batch", json={"user_ids": asked, "n": 5})).json()
        assert [one["user_id"] for one in answer["items"]] == ["u1", "u2"]
        for one in answer["items"]:
            alone = (await client.get(f"/recommend/{one['user_id']}", params={"n": 5})).json()
            assert [i["item_id"] for i in one["items"]] == [i["item_id"] for i in alone["items"]]
            assert [i["score"] for i in one["items"]] == pytest.approx(
                [i["score"] for i in alone["items"]], abs=1e-5
            )
        assert [(one["user_id"], one["status"]) for one in answer["refused"]] == [
            ("nobody", 404),
            ("u3", 410),
        ]

    run(world, scenario)


def test_a_visitor_is_answered_and_nothing_is_stored(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        before = _counts(world)
        with world.uow(write=False) as uow:
            history = [
                {"item_id": one.item_id, "rating": one.rating} for one in uow.people.history("u1")
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


def test_the_popular_is_answered_only_when_asked_for_and_says_so(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert problem(await client.get("/recommend/nobody")) == (404, "unknown-user")
        popular = await client.get("/recommend/nobody", params={"fallback": True})
        body = popular.json()
        assert (body["ranked_by"], body["release"], body["user_id"]) == (
            "popularity",
            None,
            "nobody",
        )
        assert [item["score"] for item in body["items"]] == [None] * 10
        assert "etag" not in popular.headers
        world.forget("u1")
        assert (await client.get("/recommend/u1", params={"fallback": True})).status_code == 410
        known = (await client.get("/recommend/u2", params={"fallback": True})).json()
        assert known["ranked_by"] == "model"

    run(world, scenario)


def test_before_any_release_the_first_stage_answers_where_that_is_wanted(world: World) -> None:
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
    """The scoring threads are held, so that no model can answer in time."""
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
                # There is no place either: without a deadline the caller is sent away.
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


def test_explanations_are_the_scores_without_each_event(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = (await client.get("/recommend/u1", params={"n": 4, "explain": True})).json()
        with world.uow(write=False) as uow:
            history = uow.people.history("u1")
        items = [item["item_id"] for item in answer["items"]]
        full = world.scores(answer["release"], "u1", items)
        for place, item in enumerate(answer["items"]):
            assert len(item["because"]) == 3
            effects = [abs(reason["effect"]) for reason in item["because"]]
            assert effects == sorted(effects, reverse=True)
            for reason in item["because"]:
                without = [one for one in history if one.item_id != reason["item_id"]]
                assert len(without) == len(history) - 1
                left = world.scores(answer["release"], "u1", items, history=without)
                assert reason["effect"] == pytest.approx(full[place] - left[place], abs=1e-5)
        plain = (await client.get("/recommend/u1", params={"n": 4})).json()
        assert "because" not in plain["items"][0]
        much = await client.get("/recommend/u1", params={"n": 21, "explain": True})
        assert problem(much) == (422, "invalid-input")

    run(world, scenario)


def test_an_answer_held_already_is_not_made_again_until_anything_changes(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = await client.get("/recommend/u1")
        tag = first.headers["etag"]
        assert first.headers["cache-control"] == "private, no-cache"
        assert first.json()["release"] in tag
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


def test_similar_items_rest_on_who_is_not_forgotten(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        liked = _likes(world, USERS)
        item = next(item for likes in liked.values() for item in likes)
        answer = await client.get(f"/items/{item}/similar", params={"n": 100})
        together = {
            other for likes in liked.values() if item in likes for other in likes if other != item
        }
        assert set(ids(answer)) == together
        scores = [each["score"] for each in answer.json()["items"]]
        assert scores == sorted(scores, reverse=True)
        held = {"If-None-Match": answer.headers["etag"]}
        again = await client.get(f"/items/{item}/similar", params={"n": 100}, headers=held)
        assert again.status_code == 304
        for user, likes in liked.items():
            if item in likes:
                world.forget(user)
        assert ids(await client.get(f"/items/{item}/similar", headers=held)) == []
        assert problem(await client.get("/items/x/similar")) == (404, "unknown-item")
        world.forget(item_id="i1")
        assert problem(await client.get("/items/i1/similar")) == (404, "unknown-item")

    run(world, scenario)


def _likes(world: World, users: list[str]) -> dict[str, set[str]]:
    with world.uow(write=False) as uow:
        return {
            user: {one.item_id for one in uow.people.history(user) if one.rating > 3}
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
def test_bad_queries_are_refused_at_the_edge(
    world: World, method: str, path: str, options: dict[str, Any]
) -> None:
    async def ask() -> httpx.Response:
        async with client_of(world.app()) as client:
            return await client.request(method, path, **options)

    assert problem(asyncio.run(ask())) == (422, "invalid-input")
