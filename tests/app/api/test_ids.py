"""Ids in bodies and paths: integers, spellings, refused characters; titles at the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.app.api.test_routes import run, run_serving

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

NFC, NFD = "J\u00fcrgen", "Ju\u0308rgen"
RATING = {"rating": 4, "timestamp": 1000}
BIG = 90071992547409931234


def test_integers_in_every_body_are_taken_as_their_decimal_text(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def post(path: str, body: Any, status: int = 200) -> Any:
            answer = await client.post(path, json=body)
            assert answer.status_code == status, (path, answer.text)
            return answer.json()

        await post("/items", [{"item_id": 1029, "title": "Dumbo"}, {"item_id": "7", "title": "S"}])
        await post("/users", [{"user_id": 42}, {"user_id": BIG}])
        rows = [{"user_id": 42, "item_id": item, **RATING} for item in (1029, 7)]
        await post("/interactions", rows)
        assert (await client.get("/users/42")).json()["interactions"] == 2
        assert (await client.get(f"/users/{BIG}")).json()["user_id"] == str(BIG)
        ranked = await post("/recommend", {"user_id": 42, "item_ids": [1029, "1029 ", 7]})
        assert {item["item_id"] for item in ranked["items"]} == {"1029", "7"}
        await post("/recommend", {"history": [{"item_id": 7, "rating": 4}]})
        batch = await post("/recommend/batch", {"user_ids": [42, "42", " 42", "u1"]})
        assert [answer["user_id"] for answer in batch["items"]] == ["42", "u1"]
        assert (await post("/items/withdraw", {"item_ids": [7, "7"]}))["withdrawn"] == 1
        await post("/forget", {"user_id": 42, "item_ids": [1029]}, 202)
        await post("/forget", {"item_id": 7}, 202)
        await post("/users/forget", {"user_ids": [42]}, 202)
        await post("/consents", {"user_id": 42}, 409)
        assert (await client.get("/recommend/42")).status_code == 410

    run_serving(world, scenario)


@pytest.mark.parametrize("value", [42.0, True, 1e3])
def test_other_numbers_are_refused_with_advice(world: World, value: Any) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for body in ({"user_id": value}, {"user_id": "u1", "item_ids": [value]}):
            answer = await client.post("/forget", json=body)
            assert answer.status_code == 422
            assert "send ids as strings" in answer.text

    run(world, scenario)


def test_person_forgotten_in_one_spelling_gets_410_in_every_other(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        stored = await client.post("/users", json=[{"user_id": NFC}, {"user_id": NFD}])
        assert stored.json() == {"stored": 1, "replaced": 1}
        answer = await client.get(f"/recommend/%20{NFD}")
        assert answer.json()["user_id"] == NFC
        first = await client.post("/forget", json={"user_id": NFD})
        again = await client.post("/forget", json={"user_id": f"{NFC} "})
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["id"] == again.json()["id"]
        for spelling in (NFC, NFD, f"%20{NFD}%C2%A0"):
            assert (await client.get(f"/recommend/{spelling}")).status_code == 410
            assert (await client.get(f"/users/{spelling}")).status_code == 410
            assert (await client.delete(f"/users/{spelling}")).status_code == 200
        ranked = await client.post("/recommend", json={"user_id": NFD, "n": 3})
        assert ranked.status_code == 410
        refused = await client.post("/recommend/batch", json={"user_ids": [NFD, NFC]})
        assert [(r["user_id"], r["status"]) for r in refused.json()["refused"]] == [(NFC, 410)]
        tags = {"If-None-Match": '"x"'}
        assert (await client.get(f"/recommend/{NFD}", headers=tags)).status_code == 410
        rows = [{"user_id": NFD, "item_id": "i0", **RATING}]
        assert (await client.post("/interactions", json=rows)).status_code == 409

    run_serving(world, scenario)


def test_item_has_one_answer_for_every_spelling(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/items", json=[{"item_id": f" {NFD}", "title": "T"}])
        assert (await client.get(f"/items/{NFD}")).json()["item_id"] == NFC
        assert (await client.get(f"/items/{NFD}/similar")).json()["item_id"] == NFC
        assert (await client.delete(f"/items/{NFD}%20")).status_code == 204
        history = [{"item_id": NFC, "rating": 4}, {"item_id": NFD, "rating": 3}]
        twice = await client.post("/recommend", json={"history": history})
        assert twice.status_code == 422

    run_serving(world, scenario)


def test_unknown_user_is_told_that_ids_are_compared_exactly(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in ("/recommend/U1", "/users/U1"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert "LETHE_ID_RULE=exact" in answer.json()["detail"]

    run_serving(world, scenario)


def test_user_without_data_is_suppressed_on_request(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/forget", json={"user_id": "newcomer"})
        assert refused.status_code == 404
        assert "nothing was recorded about the user" in refused.json()["detail"]
        assert (await client.get("/recommend/newcomer")).status_code == 404
        popular = await client.get("/recommend/newcomer?fallback=true")
        assert popular.status_code == 200
        body: dict[str, Any] = {"user_id": "newcomer", "suppress_unknown": True}
        accepted = await client.post("/forget", json=body)
        again = await client.post("/forget", json=body)
        assert (accepted.status_code, again.status_code) == (202, 200)
        assert accepted.json()["id"] == again.json()["id"]
        tag = {"If-None-Match": popular.headers.get("ETag", "")}
        for path in ("/recommend/newcomer", "/recommend/newcomer?fallback=true"):
            assert (await client.get(path, headers=tag)).status_code == 410
        rows = [{"user_id": "newcomer", "item_id": world.items[0].id, **RATING}]
        assert (await client.post("/interactions", json=rows)).status_code == 409
        assert (await client.post("/users", json=[{"user_id": "newcomer"}])).status_code == 409
        skipped = await client.post("/interactions?forgotten=skip", json=rows)
        assert (skipped.status_code, skipped.json()["forgotten"]) == (200, 1)
        body["item_ids"] = ["7"]
        assert (await client.post("/forget", json=body)).status_code == 422

    run_serving(world, scenario)


@pytest.mark.parametrize("bad", ["a\u202eb", "a\x00b", "a\u200bb", "a\u00a0b", " ", "x" * 201])
def test_malformed_id_is_refused_at_paths_and_bodies(world: World, bad: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/users", json=[{"user_id": bad}])).status_code == 422
        assert (await client.post("/forget", json={"item_id": bad})).status_code == 422
        path = "".join(f"%{byte:02X}" for byte in bad.encode())
        assert (await client.get(f"/users/{path}")).status_code == 422

    run(world, scenario)


def test_titles_follow_the_rule_of_imports(world: World) -> None:
    good = ["Caf\u00e9\u00a0Noir", "\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f4bb"]

    async def scenario(client: httpx.AsyncClient) -> None:
        items = [{"item_id": f"t{n}", "title": title} for n, title in enumerate(good)]
        assert (await client.post("/items", json=items)).status_code == 200
        for number, title in enumerate(good):
            assert (await client.get(f"/items/t{number}")).json()["title"] == title
        for body in (
            {"item_id": "x", "title": "a\u202eb"},
            {"item_id": "x", "title": "a\nb"},
            {"item_id": "x", "title": "T", "attributes": {"genre": "a\u2066"}},
        ):
            answer = await client.post("/items", json=[body])
            assert answer.status_code == 422
            assert "must not have" in answer.text
        user = {"user_id": "x", "attributes": {"age": "\u202e9"}}
        assert (await client.post("/users", json=[user])).status_code == 422

    run(world, scenario)


def test_page_of_items_continues_after_an_id_with_a_joiner(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        items = [{"item_id": f"\u0645\u200c{n}", "title": "T"} for n in range(2)]
        await client.post("/items", json=items)
        cursor, listed = None, []
        while True:
            params = {"limit": 1} if cursor is None else {"limit": 1, "cursor": cursor}
            page = (await client.get("/items", params=params)).json()
            listed += [item["item_id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert listed[-2:] == [item["item_id"] for item in items]

    run(world, scenario)
