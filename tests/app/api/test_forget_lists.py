"""`POST /forget/bulk`: formats, options, limits, outcomes and idempotency over HTTP."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.api.subject_lists import MAX_ROWS
from tests.app.api.test_routes import run, run_serving
from tests.support.gateway_server import gateway_server
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from tests.support.gateway_world import World

CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}
SECRET = "very-secret-person"


async def send(client: httpx.AsyncClient, *user_ids: Any, **options: Any) -> httpx.Response:
    return await client.post("/forget/bulk", json={"user_ids": user_ids}, **options)


async def results(client: httpx.AsyncClient, answer: httpx.Response) -> list[dict[str, Any]]:
    page = await client.get(f"{answer.headers['location']}/results")
    assert page.json()["next_cursor"] is None
    items: list[dict[str, Any]] = page.json()["items"]
    return items


def test_list_answers_202_with_one_outcome_per_row(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        earlier = (await client.post("/forget", json={"user_id": "u1"})).json()["id"]
        answer = await send(client, "u2", "u1", "u2", SECRET, 1.5, "")
        body = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/forget/bulk/{body['id']}"
        assert body["id"].startswith("bulk_")
        assert (body["status"], body["rows"]) == ("recorded", 6)
        assert body["counts"] == {
            "accepted": 1,
            "covered": 2,
            "not_found": 1,
            "suppressed": 0,
            "invalid": 2,
        }
        assert (await client.get(answer.headers["location"])).json() == body
        rows = await results(client, answer)
        assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert [row["outcome"] for row in rows] == [
            "accepted",
            "covered",
            "covered",
            "not_found",
            "invalid",
            "invalid",
        ]
        assert rows[1]["request_id"] == earlier
        assert rows[2]["request_id"] == rows[0]["request_id"]
        assert rows[4]["detail"] == "user_id must be a string or an integer"
        assert rows[5]["detail"] == "user_id must not be empty"
        request = await client.get(f"/forget/{rows[0]['request_id']}")
        assert (request.json()["status"], request.json()["scope"]) == ("scheduled", "user")

    run(world, scenario)


def test_users_of_a_list_get_410_at_once(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/recommend/u1")).status_code == 200
        assert (await send(client, "stranger", "u1", "u2")).status_code == 202
        for user_id in ("u1", "u2"):
            assert (await client.get(f"/recommend/{user_id}")).status_code == 410
        assert (await client.get("/recommend/u3")).status_code == 200

    run_serving(world, scenario)


def test_csv_and_ndjson_are_lists_too(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        content = '\ufeffuser_id\r\n"u1"\r\nu2,x\r\nu3\r\n'
        answer = await client.post("/forget/bulk", content=content, headers=CSV)
        assert answer.status_code == 202
        outcomes = [row["outcome"] for row in await results(client, answer)]
        assert outcomes == ["accepted", "invalid", "accepted"]
        lines = '{"user_id": "u4"}\nrubbish\n{"user_id": "u3"}\n'
        answer = await client.post("/forget/bulk/", content=lines, headers=NDJSON)
        outcomes = [row["outcome"] for row in await results(client, answer)]
        assert outcomes == ["accepted", "invalid", "covered"]

    run(world, scenario)


@pytest.mark.parametrize(
    "parameters", ['charset="UTF-8"', "charset=utf8", "charset=utf-8; header=present"]
)
def test_utf_8_may_be_named_in_any_form(world: World, parameters: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": f"text/csv; {parameters}"}
        answer = await client.post("/forget/bulk", content="user_id\nu1\n", headers=headers)
        assert answer.status_code == 202

    run(world, scenario)


def test_options_apply_to_every_row(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        params = {
            "suppress_unknown": "true",
            "requested_by": "privacy team",
            "reason": "legal",
            "reference": "DSR-7",
        }
        answer = await send(client, "u1", "unknown", params=params)
        outcomes = [row["outcome"] for row in await results(client, answer)]
        assert outcomes == ["accepted", "suppressed"]
        listed = await client.get("/forget", params={"reference": "DSR-7"})
        assert listed.json()["total"] == 2
        for request in listed.json()["items"]:
            assert (request["requested_by"], request["reason"]) == ("privacy team", "legal")
        refused = await client.post("/users", json=[{"user_id": "unknown"}])
        assert refused.status_code == 409

    run(world, scenario)


def test_idempotency_key(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        key = {"Idempotency-Key": "k1"}
        first = await send(client, "u1", "u2", headers=key)
        again = await send(client, "u1", "u2", headers=key)
        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        # Another format of the same list is the same list.
        same = await client.post(
            "/forget/bulk", content="user_id\nu1\nu2\n", headers={**CSV, **key}
        )
        assert same.json() == first.json()
        other = await send(client, "u1", "u3", headers=key)
        assert (other.status_code, other.json()["type"]) == (409, "/problems/idempotency-conflict")
        without = await send(client, "u1", "u2")
        assert without.status_code == 202
        assert without.json()["counts"]["covered"] == 2

    run(world, scenario)


def test_pages_filters_and_csv_of_results(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await send(client, *(f"u{n % 3}" for n in range(5)), "\x00", "none")
        path = f"{answer.headers['location']}/results"
        seen, cursor = [], None
        while True:
            params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            page = (await client.get(path, params=params)).json()
            seen += [item["row"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == [1, 2, 3, 4, 5, 6, 7]
        bad = await client.get(path, params={"outcome": ["invalid", "not_found"]})
        assert [item["row"] for item in bad.json()["items"]] == [6, 7]
        for accept in ("text/csv", "text/csv; q=0.9, */*"):
            table = await client.get(path, headers={"Accept": accept})
            assert table.headers["content-type"].startswith("text/csv")
            assert table.headers["vary"] == "Accept"
            rows = list(csv.DictReader(io.StringIO(table.text)))
            assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7"]
            assert [row["outcome"] for row in rows[-2:]] == ["invalid", "not_found"]
            assert rows[0]["request_id"].startswith("req_")
            assert rows[-2]["detail"] == "user_id must not have control characters"
        bad_rows = await client.get(
            path, params={"outcome": "invalid"}, headers={"Accept": "text/csv"}
        )
        assert len(bad_rows.text.splitlines()) == 2
        # PostgreSQL refuses a number of a row that needs more than 32 bits.
        for params in (
            {"limit": 0},
            {"limit": 10_001},
            {"cursor": "x"},
            {"cursor": "²"},
            {"cursor": str(2**31)},
        ):
            assert (await client.get(path, params=params)).status_code == 422, params
        for unknown in ("/forget/bulk/bulk_x", "/forget/bulk/bulk_x/results"):
            missing = await client.get(unknown)
            assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown-list")

    run(world, scenario)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (CSV, b""),
        (CSV, b"user_id\n"),
        (CSV, f"{SECRET}\nx\n".encode()),
        (CSV, f"user_id,email\n{SECRET},x\n".encode()),
        (CSV | {"Content-Type": "text/csv; charset=utf-16"}, b"user_id\nu1\n"),
        (CSV | {"Content-Type": "text/csv; header=present; charset=latin1"}, b"user_id\nu1\n"),
        (CSV | {"Content-Encoding": "gzip"}, b"user_id\nu1\n"),
        (NDJSON, b"\n\n"),
        ({"Content-Type": "application/json"}, f'{{"user_ids": ["{SECRET}"'.encode()),
        ({"Content-Type": "application/json"}, b'{"user_ids": []}'),
        ({"Content-Type": "application/json"}, f'{{"user_id": "{SECRET}"}}'.encode()),
        ({"Content-Type": "application/json"}, b'{"user_ids": ["\xff"]}'),
        ({}, b""),
    ],
)
def test_malformed_list_is_422_and_quotes_nothing(
    world: World, headers: dict[str, str], content: bytes
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/forget/bulk", content=content, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-input")
        assert SECRET not in answer.text
        assert (await client.get("/forget")).json()["total"] == 0

    run(world, scenario)


def test_personal_data_in_an_option_is_422_and_stores_nothing(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for params in ({"reference": "U2"}, {"requested_by": "a@b.c"}, {"reason": "whim"}):
            answer = await send(client, "u1", "u2", params=params)
            assert answer.status_code == 422, params
            assert "U2" not in answer.text
        assert (await client.get("/forget")).json()["total"] == 0

    run(world, scenario)


def test_other_content_types_are_415_with_the_accepted_ones(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path, accepted in (
            ("/forget/bulk", "application/json, text/csv, application/x-ndjson"),
            ("/forget/bulk/", "application/json, text/csv, application/x-ndjson"),
            ("/forget", "application/json"),
        ):
            for kind in ("text/plain", "multipart/form-data", ""):
                answer = await client.post(path, content=b"x", headers={"Content-Type": kind})
                assert answer.status_code == 415
                assert answer.headers["accept"] == accepted
                assert all(f"`{n}`" in answer.json()["detail"] for n in accepted.split(", "))
        # No other call takes CSV.
        answer = await client.post("/users", content=b"user_id\nu1\n", headers=CSV)
        assert answer.status_code == 415

    run(world, scenario)


def test_list_above_the_limit_is_413_and_stores_nothing(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        contents = {
            "text/csv": "user_id\nu1\n" + "x\n" * MAX_ROWS,
            "application/x-ndjson": '{"user_id": "u1"}\n' * (MAX_ROWS + 1),
            "application/json": json.dumps({"user_ids": ["u1"] * (MAX_ROWS + 1)}),
        }
        for kind, content in contents.items():
            answer = await client.post(
                "/forget/bulk", content=content, headers={"Content-Type": kind}
            )
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/list-too-long")
            assert "100000" in answer.json()["detail"]
        assert (await client.get("/forget")).json()["total"] == 0

    run(world, scenario)


def test_stopping_gateway_ends_the_recording_with_503(world: World) -> None:
    # A gateway that waited for the whole list would answer 202.
    settings = world.settings.model_copy(update={"drain_timeout": 600.0})
    content = "user_id\n" + "".join(f"unknown{number}\n" for number in range(20_000))

    def call(host: str, port: int) -> httpx.Response:
        url = f"http://{host}:{port}/forget/bulk?suppress_unknown=true"
        return httpx.post(
            url, content=content, headers=CSV, trust_env=False, timeout=PATIENCE_SECONDS
        )

    def has_requests() -> bool:
        with world.uow(write=False) as uow:
            return bool(uow.requests.page(1, None))

    with ThreadPoolExecutor(1) as pool, gateway_server(settings) as (host, port):
        answer = pool.submit(call, host, port)
        wait_until(has_requests, "no chunk was recorded")
    assert answer.result().status_code == 503
    assert answer.result().json()["type"] == "/problems/unavailable"


def test_openapi_describes_every_format_and_answer(world: World) -> None:
    paths = world.app().openapi()["paths"]
    call = paths["/forget/bulk"]["post"]
    assert set(call["requestBody"]["content"]) == {
        "application/json",
        "text/csv",
        "application/x-ndjson",
    }
    assert {"200", "202", "409", "413", "415", "422", "503"} <= set(call["responses"])
    table = paths["/forget/bulk/{list_id}/results"]["get"]["responses"]["200"]["content"]
    assert set(table) == {"application/json", "text/csv"}
    names = {parameter["name"] for parameter in call["parameters"]}
    assert names == {
        "suppress_unknown",
        "requested_by",
        "reason",
        "reference",
        "Idempotency-Key",
    }
