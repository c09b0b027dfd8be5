"""An id that one door accepts is accepted, found, forgotten and refused at all others."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.id_rules import MalformedTextError, normal_id
from models.datasets.values import is_missing, is_rounded_id, is_whole_float
from tests.support.gateway_world import client_of
from worker.importer import run_import

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World


def is_valid(text: str) -> bool:
    try:
        normal = normal_id(text)
    except MalformedTextError:
        return False
    # Imports read these ids as missing or rounded, see docs/guides/data.md.
    return not (is_missing(normal) or is_whole_float(normal) or is_rounded_id(normal))


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(user_ids=st.lists(st.text(min_size=1, max_size=9).filter(is_valid), max_size=5))
def test_id_is_the_same_person_at_every_door(world: World, user_ids: list[str]) -> None:
    async def scenario() -> None:
        # Creating an application takes longer than all calls of an example.
        async with client_of(world.app()) as client:
            for user_id in user_ids:
                await check_doors(world, client, user_id)

    asyncio.run(scenario())


async def check_doors(world: World, client: httpx.AsyncClient, user_id: str) -> None:
    path = world.settings.home / "rows.jsonl"
    row = {"user_id": user_id, "item_id": "i1", "rating": 4, "timestamp": 1_600_000_000}

    def import_row() -> dict[str, object]:
        path.write_text(json.dumps(row) + "\n")
        return run_import(path, "auto", world.uow, world.pseudonyms, lambda _: None)

    found = await client.get("/users", params={"id": user_id})
    if found.status_code == 410:
        return  # An earlier example has forgotten this person.
    assert import_row()["interactions"] == 1
    found = await client.get("/users", params={"id": user_id})
    assert found.json()["user_id"] == normal_id(user_id)
    assert (await client.post("/interactions", json=[row])).json() == {"stored": 1}
    assert (await client.post("/forget", json={"user_id": user_id})).status_code == 202
    assert (await client.get("/users", params={"id": user_id})).status_code == 410
    assert (await client.post("/users", json=[{"user_id": user_id}])).status_code == 409
    assert (await client.post("/interactions", json=[row])).status_code == 409
    # The row of the user and the rating are skipped.
    summary = import_row()
    assert summary["skipped"] == {"forgotten": 1, "forgotten_users": 1}
    assert summary["interactions"] == 0


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(
        ["/forget", "/forget/bulk", "/users", "/items", "/interactions", "/recommend"]
    ),
    bodies=st.lists(st.binary(max_size=60), min_size=5, max_size=20),
)
def test_random_bodies_never_give_a_500(world: World, path: str, bodies: list[bytes]) -> None:
    async def scenario() -> None:
        async with client_of(world.app()) as client:
            headers = {"Content-Type": "application/json"}
            for body in bodies:
                answer = await client.post(path, content=body, headers=headers)
                assert 400 <= answer.status_code < 500
                assert answer.headers["content-type"] == "application/problem+json"

    asyncio.run(scenario())
