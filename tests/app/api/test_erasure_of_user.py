"""`GET /users/{id}/erasure` says whether a person is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from app.domain.errors import UnknownUserError
from app.domain.requests import Assurance
from app.services.suppression import record_consent
from app.services.users import read_erasure
from tests.app.api.test_request_lists import PAST, change
from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

NOT_FORGOTTEN = {
    "forgotten": False,
    "since": None,
    "request_id": None,
    "status": None,
    "assurance": None,
    "completed_at": None,
    "exact_due_at": None,
    "exact_at": None,
}


async def erasure(client: httpx.AsyncClient, user_id: str) -> dict[str, Any]:
    answer = await client.get("/users/erasure", params={"id": user_id})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_erasure_from_the_request_to_exact_and_consent(world: World) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await erasure(client, "u1") == NOT_FORGOTTEN
        accepted = (await client.post("/forget", json={"user_id": "u1"})).json()
        forgotten = await erasure(client, " u1 ")
        assert forgotten == {
            "forgotten": True,
            "since": accepted["created_at"],
            "request_id": accepted["id"],
            "status": "scheduled",
            "assurance": "none",
            "completed_at": None,
            "exact_due_at": accepted["exact_due_at"],
            "exact_at": None,
        }
        assert (await client.get("/users/u1/erasure")).json() == forgotten
        change(world, accepted["id"], user_id=None, item_ids=None, status="completed")
        change(world, accepted["id"], assurance="exact", completed_at=PAST, exact_at=PAST)
        exact = await erasure(client, "u1")
        assert (exact["status"], exact["assurance"]) == ("completed", "exact")
        with world.uow() as uow:
            record_consent(uow, world.pseudonyms, "u1")
        consented = await erasure(client, "u1")
        assert consented == {**exact, "forgotten": False, "since": None}

    run(world, scenario)


def test_deleted_interactions_and_cancelled_requests_forget_no_user(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow(write=False) as uow:
            rated = uow.people.history("u1")[0].item_id
        world.forget("u1", rated)
        assert await erasure(client, "u1") == NOT_FORGOTTEN
        await client.delete(f"/forget/{world.forget('u2')}")
        assert await erasure(client, "u2") == NOT_FORGOTTEN

    run(world, scenario)


def test_user_without_any_trace_is_unknown(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for answer in (
            await client.get("/users/u99/erasure"),
            await client.get("/users/erasure", params={"id": "u99"}),
        ):
            assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-user")
        await client.post("/forget", json={"user_id": "u99", "suppress_unknown": True})
        assert (await erasure(client, "u99"))["forgotten"] is True
        assert (await client.get("/users/erasure", params={"id": ""})).status_code == 422

    run(world, scenario)


def test_ids_that_look_like_the_path_are_ids(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        ids = ["x", "x/erasure", "erasure", "a/b"]
        await client.post("/users", json=[{"user_id": user_id} for user_id in ids])
        for path, user_id in (
            ("/users/x%2Ferasure", "x/erasure"),
            ("/users/erasure", "erasure"),
            ("/users/a/b", "a/b"),
        ):
            assert (await client.get(path)).json()["user_id"] == user_id
        request_id = world.forget("x/erasure")
        assert (await client.get("/users/x%2Ferasure/erasure")).json()["request_id"] == request_id
        assert (await client.get("/users/x/erasure")).json() == NOT_FORGOTTEN
        assert (await erasure(client, "x/erasure"))["request_id"] == request_id
        assert (await client.delete("/users/a%2Ferasure")).status_code == 404
        assert (await client.delete("/users/x%2Ferasure")).json()["id"] == request_id

    run(world, scenario)


def test_weakest_of_several_requests_counts(world: World) -> None:
    first = world.forget("u1")
    change(world, first, status="completed", assurance="exact", created_at=PAST)
    second = world.forget("u2")
    with world.uow() as uow:
        request = uow.requests.get(second)
        uow.suppressions.add([world.pseudonyms.user("u1")], request)
        found = read_erasure(uow, world.pseudonyms, "u1")
    assert found.request is not None
    assert (found.request.id, found.since) == (request.id, PAST)
    assert found.request.assurance is Assurance.NONE


def test_every_user_costs_the_same_statements(world: World) -> None:
    world.forget("u1")
    executed: list[str] = []
    engine = world.uow.database.read

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            executed.append(statement)

    event.listen(engine, "before_cursor_execute", record)
    statements = []
    for user_id in ("u1", "u2", "u99"):
        executed.clear()
        with world.uow(write=False) as uow:
            if user_id == "u99":
                with pytest.raises(UnknownUserError):
                    read_erasure(uow, world.pseudonyms, user_id)
            else:
                read_erasure(uow, world.pseudonyms, user_id)
        statements.append(list(executed))
    event.remove(engine, "before_cursor_execute", record)
    assert len(statements[0]) == 3
    assert statements[0] == statements[1] == statements[2]
