"""A running gateway follows a restored database, and a damaged ledger stops the gateway."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import LedgerDamagedError
from app.gateway import check_identity
from app.main import make_gateway
from app.services.restore import open_data
from tests.support.backups import DatabaseBackup
from tests.support.gateway_world import serving, until_ready, until_true

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World


def start_release(world: World) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0, "batch_seconds": 0.0})
    with world.uow() as uow:
        open_data(uow, world.uow.ledger, world.pseudonyms, world.settings)
    world.flip(*world.publish(1))


async def statuses(world: World, client: httpx.AsyncClient) -> set[int]:
    """Return the statuses of calls that compute with data or weights of all users."""
    body: dict[str, object] = {"user_ids": ["u2", "u4"]}
    answers = [
        await client.get("/recommend/u2"),
        await client.get("/recommend/unknown", params={"fallback": True}),
        await client.post("/recommend", json={"n": 5}),
        await client.post("/recommend/batch", json=body),
        await client.get(f"/items/{world.items[0].id}/similar"),
    ]
    return {answer.status_code for answer in answers}


def test_gateway_follows_a_database_that_is_restored_while_it_runs(world: World) -> None:
    start_release(world)
    backup = DatabaseBackup.of(world.uow.database)
    world.forget("u1")
    world.complete()
    world.forget("u3")

    async def whole() -> None:
        async with serving(world.app()) as client:
            await until_ready(client)
            assert await statuses(world, client) == {200}
            backup.restore(world.uow.database)

            async def is_restoring() -> bool:
                # Before the restore is noticed, the replica only misses its lease.
                answer = await client.get("/recommend/u2")
                return answer.status_code == 503 and answer.json()["type"].endswith("/restoring")

            await until_true(is_restoring)
            for user_id in ("u1", "u3"):
                assert (await client.get(f"/recommend/{user_id}")).status_code == 410
                assert (await client.get(f"/users/{user_id}")).status_code == 410
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert "restoring: 1 deletions are repeated after a restore" in ready.json()["reasons"]
            assert "restoring" in [warning["code"] for warning in ready.json()["warnings"]]
            assert await statuses(world, client) == {503}
            await asyncio.to_thread(world.complete)
            await until_ready(client)
            assert (await client.get("/recommend/u2")).status_code == 200
            assert (await client.get("/recommend/u1")).status_code == 410

    asyncio.run(whole())


def test_gateway_stops_while_its_ledger_is_gone(world: World) -> None:
    start_release(world)
    world.forget("u1")
    ledger = Path(world.settings.ledger_root)
    saved = ledger.with_name("saved-ledger")

    async def whole() -> None:
        # The gateway stops when its lease ends.
        async with serving(world.app(replica_ttl=10.0, replica_margin=0.5)) as client:
            await until_ready(client)
            shutil.move(ledger, saved)

            async def is_refused() -> bool:
                return (await client.get("/recommend/u2")).status_code == 503

            await until_true(is_refused)
            (first, *_) = (await client.get("/readyz")).json()["reasons"]
            assert first.startswith("The erasure ledger cannot be trusted")
            shutil.rmtree(ledger, ignore_errors=True)
            shutil.move(saved, ledger)

            async def is_answered() -> bool:
                return (await client.get("/recommend/u2")).status_code == 200

            await until_true(is_answered)

    asyncio.run(whole())


def test_gateway_does_not_start_without_its_ledger(world: World) -> None:
    start_release(world)
    world.forget("u1")
    shutil.rmtree(world.settings.ledger_root)
    gateway = make_gateway(world.settings, world.uow.database)
    with pytest.raises(LedgerDamagedError, match="restore-check"):
        check_identity(gateway)
