"""`POST /forget?dry_run=true` says what a deletion would do, and stores nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from app.domain.renewal import ExactMode
from app.storage.tables import Base, JobRow, ReleaseRow
from tests.app.api.test_request_lists import PAST
from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

DRY: dict[str, Any] = {"dry_run": "true"}


def stored(world: World) -> dict[str, list[Any]]:
    """Return every row of every table, and the entries of the ledger."""
    with world.uow.database.read.connect() as connection:
        rows: dict[str, list[Any]] = {
            name: list(connection.execute(select(table)))
            for name, table in Base.metadata.tables.items()
        }
    ledger = world.settings.home.with_name(world.settings.home.name + "-ledger")
    rows["ledger"] = sorted(path for path in ledger.rglob("*") if path.is_file())
    return rows


def count(world: World, user_id: str) -> int:
    with world.uow(write=False) as uow:
        return uow.people.count_of(user_id)


def test_dry_run_of_a_user_stores_nothing(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        world.forget("u2")
        before = stored(world)
        headers = {"Idempotency-Key": "k"}
        answer = await client.post("/forget", params=DRY, json={"user_id": "u1"}, headers=headers)
        assert (answer.status_code, "location" in answer.headers) == (200, False)
        result = answer.json()
        assert result["rows"] == {"users": 1, "interactions": count(world, "u1")}
        assert (result["scope"], result["covered_by"]) == ("user", None)
        assert result["batch"]["requests_before"] == 1
        assert result["batch"]["batches_before"] == 0
        cancellable, closes = (
            datetime.fromisoformat(text)
            for text in (result["cancellable_until"], result["batch"]["closes_at"])
        )
        assert closes - cancellable == timedelta(seconds=world.settings.batch_seconds)
        # Nothing has been measured.
        assert result["expected_completed_at"] is result["expected_exact_at"] is None
        assert stored(world) == before
        assert (await client.get("/users/u1")).status_code == 200
        # The key was not stored either.
        other = await client.post("/forget", json={"user_id": "u3"}, headers=headers)
        assert other.status_code == 202

    run(world, scenario)


def test_dry_run_of_interactions_and_items(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow(write=False) as uow:
            rated = [row.item_id for row in uow.people.history("u1")][:2]
            raters = len(uow.people.raters_of(rated[0]))
        pairs = {"user_id": "u1", "item_ids": rated}
        answer = await client.post("/forget", params=DRY, json=pairs)
        assert answer.json()["rows"] == {"interactions": 2}
        answer = await client.post("/forget", params=DRY, json={"item_id": rated[0]})
        assert answer.json()["rows"] == {"items": 1, "interactions": raters}
        unknown = {"user_id": "u99", "suppress_unknown": True}
        assert (await client.post("/forget", params=DRY, json=unknown)).json()["rows"] == {}

    run(world, scenario)


def test_dry_run_has_the_errors_of_the_call(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for body, status in (
            ({"user_id": "u99"}, 404),
            ({"user_id": "u1", "item_ids": ["none"]}, 404),
            ({"user_id": "u1", "item_id": "i1"}, 422),
            ({"user_id": "u1", "reference": "u1"}, 422),
        ):
            answer = await client.post("/forget", params=DRY, json=body)
            real = await client.post("/forget", json=body)
            assert answer.status_code == status
            assert answer.json()["type"] == real.json()["type"]

    run(world, scenario)


def test_dry_run_names_the_request_that_covers_the_call(world: World) -> None:
    request_id = world.forget("u1")

    async def scenario(client: httpx.AsyncClient) -> None:
        answer = (await client.post("/forget", params=DRY, json={"user_id": "u1"})).json()
        assert answer["covered_by"] == request_id
        assert (answer["rows"], answer["batch"], answer["due_at"]) == ({}, None, None)

    run(world, scenario)


@pytest.mark.parametrize("mode", [ExactMode.SOON, ExactMode.DEADLINE, ExactMode.OFF])
def test_expected_times_follow_from_measured_durations(world: World, mode: ExactMode) -> None:
    world.settings = world.settings.model_copy(update={"exact": mode, "cancel_window": 0.0})
    lease, name = world.publish(1)
    world.flip(lease, name)
    world.forget("u2")
    world.complete()
    with world.uow() as uow:
        ended = PAST + timedelta(seconds=40)
        uow.requests._connection.execute(
            update(JobRow).where(JobRow.kind == "forget").values(started_at=PAST, finished_at=ended)
        )
        uow.requests._connection.execute(
            update(ReleaseRow).values(training_seconds=600.0, method="retrain")
        )

    async def scenario(client: httpx.AsyncClient) -> None:
        answer = (await client.post("/forget", params=DRY, json={"user_id": "u1"})).json()
        closes = datetime.fromisoformat(answer["batch"]["closes_at"])
        completed = datetime.fromisoformat(answer["expected_completed_at"])
        assert completed - closes == timedelta(seconds=40)
        if mode is ExactMode.OFF:
            assert answer["expected_exact_at"] is None
            return
        exact = datetime.fromisoformat(answer["expected_exact_at"])
        assert completed + timedelta(seconds=600) <= exact
        assert exact < datetime.fromisoformat(answer["exact_due_at"])
        if mode is ExactMode.SOON:
            assert exact == completed + timedelta(seconds=600)

    run(world, scenario)


def test_dry_run_answers_for_a_used_idempotency_key_as_the_call_does(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def post(user_id: str, **parameters: str) -> httpx.Response:
            headers = {"Idempotency-Key": "k"}
            body = {"user_id": user_id}
            return await client.post("/forget", params=parameters, json=body, headers=headers)

        request_id = (await post("u1")).json()["id"]
        await client.delete(f"/forget/{request_id}")
        # The call returns the cancelled request.
        assert (await post("u1")).json()["id"] == request_id
        assert (await post("u1", **DRY)).json()["covered_by"] == request_id
        assert (await post("u2")).status_code == 409
        assert (await post("u2", **DRY)).json()["type"] == "/problems/idempotency-conflict"

    run(world, scenario)
