"""Measure the seconds of forget jobs and of exact trainings, through the worker's pipeline.

The jobs run in this process on a temporary SQLite installation, with one gateway in a process of
its own. Other processes of the machine prolong the seconds of a stage, but hardly its processor
seconds, so both are recorded. The simulation reads the file that `measure` writes.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.cli.installation import open_installation
from app.cli.launch import gateway, listening, service_at, wait_until_up
from app.cli.processes import Children
from app.domain.jobs import JobKind, JobStatus
from app.services.jobs import start_training
from benchmarks.serving.measurement import (
    SetUpFailedError,
    commit,
    environment,
    wait_until_ready,
)
from worker.context import build_context
from worker.importer import run_import
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.cli.client import Service
    from app.settings import Settings
    from worker.context import WorkerContext

_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the measurement: data set, temporary directory, batch sizes and repetitions."""

    data: Path
    home: Path
    sizes: tuple[int, ...]
    repetitions: int
    trainings: int


def measure(options: Options, command: str) -> dict[str, Any]:
    """Run all jobs and return the document for the simulation."""
    with environment(options.home) as settings:
        with open_installation(settings) as installation:
            run_import(options.data, "auto", installation.uow, installation.pseudonyms, _ignore)
        context = build_context(settings)
        try:
            with _gateway(settings) as service:
                jobs = _run_jobs(context, service, options)
        finally:
            context.close()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no accelerator used",
        "load_average": os.getloadavg()[2],
        "backbone": settings.backbone,
        "data": options.data.name,
        "torch_threads": settings.torch_threads,
        "jobs": jobs,
    }


@contextmanager
def _gateway(settings: Settings) -> Iterator[Service]:
    """Run a gateway that serves the live release, in a process of its own."""
    with listening(_HOST, 0) as server, Children() as children:
        process = children.start(gateway(server, log=settings.home / "gateway.log"))
        with service_at(server, settings) as service:
            wait_until_up(service, process)
            yield service


def _run_jobs(context: WorkerContext, service: Service, options: Options) -> list[dict[str, Any]]:
    """Run deletions before the first release, the trainings and, smallest first, forget jobs."""
    users = iter(_users(context))
    sizes = (options.sizes[0], options.sizes[-1])
    jobs = [_forget(context, service, users, size) for size in sizes]
    for number in range(options.trainings):
        with context.uow_factory() as uow:
            start_training(uow, JobKind.RENEW if number else JobKind.TRAIN)
        jobs.append(_run(context, size=0))
        wait_until_ready(service, 1)
    for size in options.sizes:
        jobs += [_forget(context, service, users, size) for _ in range(options.repetitions)]
    return jobs


def _forget(
    context: WorkerContext, service: Service, users: Iterator[str], size: int
) -> dict[str, Any]:
    """Request the deletion of the next `size` users, and run their job."""
    for user in islice(users, size):
        service.call("POST", "/forget", json={"user_id": user})
    settings = context.settings.model_copy(update={"batch_size": size})
    return _run(replace(context, settings=settings), size)


def _users(context: WorkerContext) -> list[str]:
    """Return all users in a fixed random order."""
    with context.uow_factory(write=False) as uow:
        users = sorted(user.id for user in uow.people.users())
    order = np.random.default_rng(0).permutation(len(users))
    return [users[index] for index in order.tolist()]


def _run(context: WorkerContext, size: int) -> dict[str, Any]:
    """Run the next job and return its figures; raises SetUpFailedError unless the job succeeds."""
    begun: list[tuple[str, float, float]] = []

    def note(stage: str) -> None:
        begun.append((stage, time.monotonic(), time.process_time()))

    note("claim")
    if not run_once(context, on_stage=lambda stage: note(stage.value)):
        raise SetUpFailedError("No job was ready to run.")
    note("end")
    with context.uow_factory(write=False) as uow:
        (job,) = uow.jobs.page(1, None)
    if job.status is not JobStatus.SUCCEEDED:
        raise SetUpFailedError(f"The {job.kind} job of size {size} is {job.status}: {job.error}")
    wall: dict[str, float] = {}
    processor: dict[str, float] = {}
    for (stage, at, used), (_, next_at, next_used) in pairwise(begun):
        wall[stage] = round(wall.get(stage, 0.0) + next_at - at, 3)
        processor[stage] = round(processor.get(stage, 0.0) + next_used - used, 3)
    return {
        "kind": job.kind.value,
        "size": size,
        "attempts": [
            {name: attempt[name] for name in ("method", "outcome")}
            for attempt in job.metrics.get("tries", [])
        ],
        "rows_deleted": job.metrics.get("rows_deleted", 0),
        "stage_seconds": wall,
        "stage_cpu_seconds": processor,
    }


def _ignore(event: dict[str, Any]) -> None:
    del event
