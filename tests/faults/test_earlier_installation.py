"""Serve, verify and finish an installation that an earlier version left behind."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.jobs import JobStatus, Stage
from app.domain.requests import Outcome, RequestStatus
from app.main import create_app
from app.services.certificates import certificate_of
from app.services.signatures import verify_certificate
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate
from models.checkpoints import checkpoint
from tests.support.gateway_world import serving, until_ready
from worker.context import build_context
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.context import WorkerContext

FIXTURE: Final = Path(__file__).parents[1] / "fixtures" / "earlier_installation"
FORGOTTEN: Final = "person-8c1f0b7e"
IN_FLIGHT: Final = "u5"
LIVE: Final = {
    "merge": "rel_52595a1ac5db902d6f87b5a7",
    "delete_rows": "rel_80c3a414f3d757bfe1b4d828",
}


@pytest.fixture(params=["merge", "delete_rows"])
def stopped_at(request: pytest.FixtureRequest) -> str:
    stage: str = request.param
    return stage


@pytest.fixture
def context(tmp_path: Path, stopped_at: str) -> Iterator[WorkerContext]:
    with tarfile.open(FIXTURE / f"stopped_at_{stopped_at}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    settings = Settings(
        home=tmp_path,
        hash_key="another key for tests, number 0",  # type: ignore[arg-type] # parsed from text
        holdout_share=0.2,
        method="e2urec-fast",
        job_lease=60.0,
        poll_seconds=0.05,
        candidates=20,
    )
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    database.dispose()
    opened = build_context(settings)
    yield opened
    opened.close()


def live_release(context: WorkerContext) -> str | None:
    with context.uow_factory(write=False) as uow:
        return uow.releases.alias().live


def stored_users(context: WorkerContext) -> set[str]:
    with context.uow_factory(write=False) as uow:
        return {user.id for user in uow.people.users()}


def test_certificate_still_verifies() -> None:
    certificate = json.loads((FIXTURE / "certificate.json").read_text())

    payload = verify_certificate(certificate, (FIXTURE / "public.pem").read_bytes())

    assert payload["release"] == LIVE["merge"]


def test_job_keeps_its_stage(context: WorkerContext, stopped_at: str) -> None:
    with context.uow_factory(write=False) as uow:
        job = uow.jobs.open_job()

    assert job is not None
    assert job.stage is {"merge": Stage.MERGE, "delete_rows": Stage.DELETE_ROWS}[stopped_at]


def test_release_loads_with_its_golden_answers(context: WorkerContext, stopped_at: str) -> None:
    with context.uow_factory(write=False) as uow:
        release = uow.releases.get(LIVE[stopped_at])
    assert release is not None

    directory = context.artifacts.local_path(release.path)

    checkpoint.load(directory)  # Compares the digest and the golden answers.


def test_gateway_serves_while_worker_finishes_job(context: WorkerContext, stopped_at: str) -> None:
    async def scenario() -> tuple[dict[str, Any], dict[str, Any]]:
        async with serving(create_app(context.settings)) as client:
            await until_ready(client)
            assert (await client.get(f"/recommend/{IN_FLIGHT}")).status_code == 410
            assert (await client.get(f"/recommend/{FORGOTTEN}")).status_code in {404, 410}
            before = (await client.get("/recommend/u1")).json()
            await asyncio.to_thread(run_once, context)
            await until_ready(client)
            return before, (await client.get("/recommend/u1")).json()

    before, after = asyncio.run(scenario())

    assert before["release"] == LIVE[stopped_at]
    assert after["release"] == live_release(context)
    assert IN_FLIGHT not in stored_users(context)
    with context.uow_factory(write=False) as uow:
        requests = uow.requests.page(10, None)
        jobs = uow.jobs.page(10, None)
    assert {request.status for request in requests} == {RequestStatus.COMPLETED}
    assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
    newest = max(requests, key=lambda request: request.created_at)
    with context.uow_factory(write=False) as uow:
        certificate = certificate_of(uow, newest.id)
    payload = verify_certificate(certificate, (FIXTURE / "public.pem").read_bytes())
    assert payload["release"] == live_release(context)
    with context.uow_factory(write=False) as uow:
        release = uow.releases.get(payload["release"])
    assert release is not None
    assert context.artifacts.published() == [release.path]
    if stopped_at == "merge":
        # The job starts from the snapshot again. Its parent has no record of training.
        assert newest.outcome is Outcome.EXACT
