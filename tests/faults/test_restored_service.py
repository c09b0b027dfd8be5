"""Case 25 of the issue, with real models and a gateway: restore the database, or everything."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import RestoringError
from app.domain.requests import RequestStatus
from app.main import create_app
from app.services.jobs import start_training
from models.checkpoints import manifest as manifests
from tests.faults.conftest import PERSON
from tests.faults.test_real_learner import real_installation
from tests.support.backups import DatabaseBackup, DirectoryBackup
from tests.support.gateway_world import serving, until_ready
from worker.context import build_context
from worker.loop import run_forever

if TYPE_CHECKING:
    import httpx

    from tests.faults.conftest import Installation

__all__ = ["real_installation"]


def open_again(installation: Installation) -> None:
    installation.context.close()
    installation.context = build_context(installation.settings)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["database", "everything"])
def test_erasure_is_repeated_before_anything_is_served(
    real_installation: Installation, tmp_path_factory: pytest.TempPathFactory, part: str
) -> None:
    installation = real_installation
    database = DatabaseBackup.of(installation.context.database)
    artifacts = DirectoryBackup(
        Path(installation.settings.artifacts_root), tmp_path_factory.mktemp("backup") / "artifacts"
    )
    request_id = installation.forget()
    run_forever(installation.context, threading.Event(), until_idle=True)
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    database.restore(installation.context.database)
    if part == "everything":
        artifacts.restore()

    async def whole() -> None:
        app = create_app(installation.settings)
        async with serving(app) as client:
            await refuses_everything(client)
            await asyncio.to_thread(repeat)
            await until_ready(client)
            assert (await client.get("/recommend/u1")).status_code == 200
            assert (await client.get(f"/recommend/{PERSON}")).status_code == 410
            assert (await client.get(f"/users/{PERSON}")).status_code == 410

    def repeat() -> None:
        open_again(installation)
        with pytest.raises(RestoringError), installation.context.uow_factory() as uow:
            start_training(uow)
        run_forever(installation.context, threading.Event(), until_idle=True)

    asyncio.run(whole())
    installation.check_forgotten(request_id)
    content = installation.certificate(request_id)
    assert content["repeats"]["completed_at"] < content["completed_at"]
    # Fast unlearning is tried if the weights that knew the person are there again.
    tried = {audit["method"] for job in content["jobs"] for audit in job["audits"]}
    assert ("e2urec-fast" in tried) is (part == "everything")
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(content["release"])
    assert release is not None
    directory = installation.context.artifacts.local_path(release.path)
    if part == "database":
        excluded = manifests.read_manifest(directory).extra["excluded"]
        assert installation.context.pseudonyms.user(PERSON) in excluded


async def refuses_everything(client: httpx.AsyncClient) -> None:
    """Assert that a gateway which has just started gives nothing to or about the person."""
    while "restoring" not in (ready := await client.get("/readyz")).text:
        assert ready.status_code == 503
        assert (await client.get("/recommend/u1")).status_code == 503
        await asyncio.sleep(0.02)
    answer = await client.get("/recommend/u1")
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[-1]) == (503, "restoring")
    assert (await client.get(f"/recommend/{PERSON}")).status_code == 410
    assert (await client.get(f"/users/{PERSON}")).status_code == 410
