"""`GET /forget` filters, counts and pages deletion requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from app.domain.renewal import ExactMode
from app.storage.tables import RequestRow
from tests.app.api.test_routes import run

if TYPE_CHECKING:
    import httpx
    import pytest

    from tests.support.gateway_world import World

NOW = datetime.now(UTC)
PAST, FUTURE = NOW - timedelta(days=1), NOW + timedelta(days=365)


async def listed(client: httpx.AsyncClient, **parameters: Any) -> list[str]:
    """Return the ids of a list, and check that the total agrees."""
    answer = await client.get("/forget", params=parameters)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert page["total"] == len(page["items"])
    return [request["id"] for request in page["items"]]


def change(world: World, request_id: str, **values: Any) -> None:
    """Write columns of a request, as a worker or the passing of time would."""
    with world.uow() as uow:
        uow.requests._connection.execute(
            update(RequestRow).where(RequestRow.id == request_id).values(**values)
        )


def test_status_and_assurance(world: World) -> None:
    first, second, third = (world.forget(user_id) for user_id in ("u1", "u2", "u3"))
    change(world, first, status="completed", assurance="exact")
    change(world, second, status="on_hold")

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await listed(client) == [third, second, first]
        assert await listed(client, status="scheduled") == [third]
        assert await listed(client, status=["scheduled", "on_hold"]) == [third, second]
        assert await listed(client, assurance="exact") == [first]
        assert await listed(client, assurance="none", status="on_hold") == [second]
        refused = await client.get("/forget", params={"status": "done"})
        assert refused.status_code == 422
        assert "'scheduled'" in refused.json()["errors"][0]["detail"]

    run(world, scenario)


def test_overdue_requests_are_open_or_not_exact(world: World) -> None:
    names = ("open", "late", "approximate", "exact", "cancelled", "fresh")
    ids = dict(zip(names, map(world.forget, (f"u{n}" for n in range(6))), strict=True))
    change(world, ids["late"], due_at=PAST)
    change(world, ids["open"], exact_due_at=PAST)
    change(world, ids["approximate"], status="completed", assurance="approximate")
    change(world, ids["approximate"], exact_due_at=PAST, due_at=PAST)
    change(world, ids["exact"], status="completed", assurance="exact", due_at=PAST)
    change(world, ids["cancelled"], status="cancelled", due_at=PAST, exact_due_at=PAST)
    late = [ids[name] for name in ("approximate", "late", "open")]
    in_time = [ids[name] for name in ("fresh", "cancelled", "exact")]

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await listed(client, overdue="true") == late
        assert await listed(client, overdue="false") == in_time
        assert await listed(client, due_before=NOW.isoformat()) == late
        assert await listed(client, due_before=FUTURE.isoformat()) == [ids["fresh"], *late]

    run(world, scenario)


def test_without_exact_trainings_only_open_requests_are_overdue(world: World) -> None:
    world.settings = world.settings.model_copy(update={"exact": ExactMode.OFF})
    late, approximate = world.forget("u1"), world.forget("u2")
    change(world, late, due_at=PAST, exact_due_at=None)
    change(world, approximate, status="completed", assurance="approximate", exact_due_at=PAST)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await listed(client, overdue="true") == [late]
        assert await listed(client, overdue="false") == [approximate]

    run(world, scenario)


def test_created_range(world: World) -> None:
    ids = [world.forget(f"u{n}") for n in range(3)]
    for days, request_id in enumerate(ids):
        change(world, request_id, created_at=PAST + timedelta(days=days))
    before, after = PAST + timedelta(hours=1), PAST + timedelta(days=1, hours=1)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await listed(client, created_before=before.isoformat()) == ids[:1]
        assert await listed(client, created_after=after.isoformat()) == ids[2:]
        between = {"created_after": before.isoformat(), "created_before": after.isoformat()}
        assert await listed(client, **between) == ids[1:2]
        turned = {"created_after": after.isoformat(), "created_before": before.isoformat()}
        refused = await client.get("/forget", params=turned)
        assert refused.status_code == 422
        assert "must be earlier" in refused.json()["detail"]
        # Without a time zone, a time would be ambiguous; `2026` could be a year or Unix seconds.
        for text in ("2026-11-30T12:00:00", "2026-11-30", "2026", "20261130", "-1", "1764500000"):
            refused = await client.get("/forget", params={"created_after": text})
            assert refused.status_code == 422, text

    run(world, scenario)


def test_user_has_all_requests_in_every_state(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        with world.uow(write=False) as uow:
            rated = uow.people.history("u1")[0].item_id
        cancelled = world.forget("u1", rated)
        assert (await client.delete(f"/forget/{cancelled}")).status_code == 200
        pair = world.forget("u1", rated)
        whole = world.forget(" u1 ")
        world.forget("u2")
        assert await listed(client, user_id="u1") == [whole, pair, cancelled]
        change(world, pair, status="completed", user_id=None, item_ids=None)
        # A request from before `user_hash` is found by its suppression.
        change(world, whole, user_hash=None)
        assert await listed(client, user_id=" u1") == [whole, pair, cancelled]
        assert await listed(client, user_id="u1", status="completed") == [pair]
        assert await listed(client, user_id="u99") == []
        refused = await client.get("/forget", params={"user_id": "a\x00b"})
        assert refused.status_code == 422
        assert "a\\u0000b" not in refused.text

    run(world, scenario)


def test_pages_of_a_filtered_list(world: World) -> None:
    ids = [world.forget(f"u{n}") for n in range(5)]
    change(world, ids[2], status="on_hold")
    expected = [ids[4], ids[3], ids[1], ids[0]]

    async def scenario(client: httpx.AsyncClient) -> None:
        seen: list[str] = []
        parameters: dict[str, Any] = {"status": "scheduled", "limit": 2}
        for _ in range(2):
            page = (await client.get("/forget", params=parameters)).json()
            assert page["total"] == 4
            seen += [request["id"] for request in page["items"]]
            parameters["cursor"] = page["next_cursor"]
        assert (seen, parameters["cursor"]) == (expected, None)
        uncounted = await client.get("/forget", params={"total": "false"})
        assert uncounted.json()["total"] is None

    run(world, scenario)


def test_filter_logs_no_user_id(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    user_id = "secret-user-7"

    async def scenario(client: httpx.AsyncClient) -> None:
        assert await listed(client, user_id=user_id) == []

    run(world, scenario)
    assert user_id not in "".join(capfd.readouterr())
