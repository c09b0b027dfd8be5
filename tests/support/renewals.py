"""Provide an installation with renewals, and approximate deletions without their completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from app.domain.jobs import JobKind, Stage
from app.services.attention import read_attention
from app.services.renewals import schedule
from tests.faults.conftest import fill, make_installation
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.jobs import Job
    from app.storage.engine import Database
    from tests.faults.conftest import Installation

DAY = 86_400.0


def make_renewing(database: Database, home: Path, **changes: str) -> Installation:
    """Return an installation with a live release; renewals start by themselves."""
    # With a long lease, a slow machine loses no job.
    values = {"LETHE_EXACT": "soon", "LETHE_JOB_LEASE": "60"} | changes
    installation = make_installation(database, home, **values)
    fill(installation.context)
    installation.train()
    return installation


def execute(installation: Installation, statement: str, **values: Any) -> None:
    with installation.context.database.write.begin() as connection:
        connection.execute(text(statement), values)


def owe(installation: Installation, *, seconds: float = 1.0) -> None:
    """Make all completed deletions approximate, and record the time of the last training."""
    execute(
        installation,
        "UPDATE requests SET assurance = 'approximate'"
        " WHERE status = 'completed' AND assurance <> 'exact'",
    )
    execute(
        installation,
        "UPDATE releases SET training_seconds = :seconds, training_rows = 1000",
        seconds=seconds,
    )


def pay(installation: Installation) -> None:
    """Make all approximate deletions exact, as the completion of a renewal does."""
    execute(installation, "UPDATE requests SET assurance = 'exact' WHERE assurance = 'approximate'")


def paying(installation: Installation) -> Callable[[Stage], None]:
    """Return a hook that makes the deletions exact when a renewal shreds the old release."""

    def at_shred(stage: Stage) -> None:
        job = open_job(installation)
        if stage is Stage.SHRED and job is not None and job.kind is JobKind.RENEW:
            pay(installation)

    return at_shred


def complete(installation: Installation, user_id: str = "u0", *, seconds: float = 1.0) -> str:
    """Complete an approximate deletion of this user; return the id of the request."""
    request_id = installation.forget(user_id)
    assert run_once(installation.context)
    owe(installation, seconds=seconds)
    return request_id


def take_turn(installation: Installation) -> Job | None:
    with installation.context.uow_factory() as uow:
        return schedule(uow, installation.settings)


def open_job(installation: Installation) -> Job | None:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.open_job()


def get_job(installation: Installation, job_id: str) -> Job:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.get(job_id)


def renewals(installation: Installation) -> list[Job]:
    """Return the renewals, newest first."""
    with installation.context.uow_factory(write=False) as uow:
        return [job for job in uow.jobs.page(50, None) if job.kind is JobKind.RENEW]


def warnings(installation: Installation) -> dict[str, str]:
    """Return code → detail of all warnings."""
    with installation.context.uow_factory(write=False) as uow:
        attention = read_attention(uow, installation.settings)
    return {warning.code: warning.detail for warning in attention.warnings}
