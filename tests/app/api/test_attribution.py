"""Who requested a deletion, why, and under which ticket: stored, returned, listed, and checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.api.test_request_lists import listed
from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

ATTRIBUTION = {"requested_by": "agent: ACME", "reason": "consent_withdrawn", "reference": "DSR-17"}
DEFAULTS = {"requested_by": None, "reason": "user_request", "reference": None}


def of(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in DEFAULTS}


def test_attribution_is_stored_returned_and_kept(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        accepted = await client.post("/forget", json={"user_id": "u1", **ATTRIBUTION})
        assert accepted.status_code == 202
        assert of(accepted.json()) == ATTRIBUTION
        path = accepted.headers["location"]
        assert of((await client.get(path)).json()) == ATTRIBUTION
        # The earlier request keeps its own.
        again = await client.post("/forget", json={"user_id": "u1", "reference": "DSR-18"})
        assert (again.status_code, of(again.json())) == (200, ATTRIBUTION)
        plain = await client.post("/forget", json={"user_id": "u2"})
        assert of(plain.json()) == DEFAULTS
        assert of((await client.delete(path)).json()) == ATTRIBUTION

    run(world, scenario)


def test_lists_by_requester_and_reference(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        ids = []
        for user_id, reference in (("u1", "Zu\u0308rich"), ("u2", "DSR-2")):
            body = {"user_id": user_id, "requested_by": "agent", "reference": reference}
            ids.append((await client.post("/forget", json=body)).json()["id"])
        assert await listed(client, requested_by="agent") == ids[::-1]
        # One text has one spelling, as ids have.
        assert await listed(client, reference="Zürich") == ids[:1]
        assert await listed(client, reference="DSR-2", requested_by="other") == []

    run(world, scenario)


@pytest.mark.parametrize("name", ["requested_by", "reference"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        " a",
        "a ",
        "x" * 101,
        "a\nb",
        "a\u202eb",
        "DSR-\u200b1",
        "jane@example.com",
        "jane\uff20example.com",
        "U1",
        7,
    ],
)
def test_personal_data_and_malformed_texts_are_refused(
    world: World, name: str, value: object
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/forget", json={"user_id": "u1", name: value})
        assert refused.status_code == 422, refused.text
        assert name in refused.text
        if len(str(value)) > 2:
            assert json.dumps(value)[1:-1] not in refused.text
        assert await listed(client) == []

    run(world, scenario)


def test_unknown_reason_is_refused(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/forget", json={"user_id": "u1", "reason": "because"})
        assert refused.status_code == 422
        assert "'consent_withdrawn'" in refused.json()["errors"][0]["detail"]

    run(world, scenario)


def test_idempotency_key_with_another_attribution_is_a_conflict(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def post(**fields: Any) -> httpx.Response:
            body = {"user_id": "u1", **fields}
            return await client.post("/forget", json=body, headers={"Idempotency-Key": "k"})

        first = await post(**ATTRIBUTION)
        assert first.status_code == 202
        assert (await post(**ATTRIBUTION)).json()["id"] == first.json()["id"]
        for name, value in (
            ("reference", "DSR-18"),
            ("requested_by", None),
            ("reason", "legal"),
            ("suppress_unknown", True),
        ):
            other = await post(**{**ATTRIBUTION, name: value})
            assert (other.status_code, other.json()["type"]) == (
                409,
                "/problems/idempotency-conflict",
            ), name

    run(world, scenario)
