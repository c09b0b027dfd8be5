"""Provide a small installation, worker processes to kill, and checks of a completed deletion."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from app.domain.catalog import Interaction
from app.domain.jobs import JobKind, JobStatus
from app.domain.releases import ReleaseStatus
from app.domain.requests import RequestStatus
from app.services.certificates import certificate_of
from app.services.forget import ForgetCommand, request_forget
from app.services.jobs import start_training
from app.services.signatures import verify_certificate
from app.settings import Settings
from app.storage.tables import Base
from tests.support.file_learner import FileLearner, read_weights
from tests.support.forked_workers import ForkedWorker
from tests.support.processes import PATIENCE_SECONDS, wait_until
from worker.context import build_context
from worker.loop import run_once

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from app.domain.requests import ForgetRequest
    from app.storage.engine import Database
    from worker.context import WorkerContext

#: Lease length in seconds. A machine that stops for a while must not lose a lease; `end_leases`
#: replaces the wait for the end of one.
LEASE = 60.0
#: Occurs nowhere else, so that tests can search files for its bytes.
PERSON = "person-8c1f0b7e"
#: With this key no user of the installation is a holdout user.
HASH_KEY = "a key for tests, thirty-two bytes"


@dataclass
class Installation:
    """A database with data, its artifacts, and the environment variables of its processes."""

    settings: Settings
    environment: dict[str, str]
    context: WorkerContext
    #: Whether the weights are from real models, so that `read_weights` cannot read them.
    real: bool = False
    workers: list[ForkedWorker] = field(default_factory=list)
    #: Processes of other programs than the worker.
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def forget(self, user_id: str = PERSON, *items: str) -> str:
        with self.context.uow_factory() as uow:
            request, _ = request_forget(
                uow,
                self.context.pseudonyms,
                self.settings,
                ForgetCommand.of(user_id, items, None),
            )
        return request.id

    def forget_item(self, item_id: str) -> str:
        with self.context.uow_factory() as uow:
            request, _ = request_forget(
                uow,
                self.context.pseudonyms,
                self.settings,
                ForgetCommand.of(None, (), item_id),
            )
        return request.id

    def request(self, request_id: str) -> ForgetRequest:
        with self.context.uow_factory(write=False) as uow:
            return uow.requests.get(request_id)

    def train(self, kind: JobKind = JobKind.TRAIN) -> None:
        with self.context.uow_factory() as uow:
            start_training(uow, kind)
        assert run_once(self.context)

    def start(self, *arguments: str) -> ForkedWorker:
        options = ["--model"] if self.real else []
        process = ForkedWorker([*arguments, *options], self.environment)
        self.workers.append(process)
        return process

    def start_and_stop_at(self, point: str) -> ForkedWorker:
        """Start a worker and return when the worker has suspended itself at this point."""
        process = self.start("--stop-at", point)
        wait_until(lambda: process.is_suspended() or process.poll() is not None, "no suspension")
        if process.poll() is not None:
            pytest.fail(f"the worker ended before {point}: {process.errors().decode()}")
        return process

    def kill(self, process: ForkedWorker) -> None:
        """Kill a worker, and let its leases expire."""
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.end_leases()

    def end_leases(self) -> None:
        """Let all leases of workers expire at once."""
        with self.context.database.write.begin() as connection:
            for table in ("jobs", "workers"):
                connection.execute(
                    text(f"UPDATE {table} SET lease_expires_at = 1 WHERE lease_expires_at > 1")
                )

    def finish_elsewhere(self) -> None:
        """Run another worker process until no job is left. A suspended worker loses its lease."""
        self.end_leases()
        process = self.start()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, errors.decode()

    def state(self) -> dict[str, list[Any]]:
        """Return the rows of all tables that a worker writes."""
        names = ("jobs", "requests", "releases", "aliases", "interactions", "users", "suppressions")
        with self.context.database.read.connect() as connection:
            return {
                name: sorted(map(repr, connection.execute(text(f"SELECT * FROM {name}"))))
                for name in names
            }

    def certificate(self, request_id: str) -> dict[str, Any]:
        """Return the verified content of the request's newest certificate."""
        with self.context.uow_factory(write=False) as uow:
            certificate = certificate_of(uow, request_id)
        return verify_certificate(certificate, self.context.signer.public_pem())

    def staged(self) -> list[Path]:
        staging = Path(self.settings.artifacts_root) / "staging"
        return [path for path in staging.rglob("*") if path.is_file()]

    def check_forgotten(self, request_id: str, user_id: str = PERSON) -> None:
        """Assert everything that the status `completed` promises for one user's deletion."""
        request = self.request(request_id)
        assert request.status is RequestStatus.COMPLETED
        assert request.subject is None
        with self.context.uow_factory(write=False) as uow:
            alias = uow.releases.alias()
            releases = uow.releases.page(100, None)
            job = uow.jobs.get(request.job_id or "")
            completed_requests = [r for r in uow.requests.page(100, None) if r.completed_at]
        assert job.status is JobStatus.SUCCEEDED
        assert len(completed_requests) == 1
        live = [release.id for release in releases if release.status is ReleaseStatus.LIVE]
        assert live == ([alias.live] if alias.live else [])
        assert {r.status for r in releases if r.id != alias.live} <= {ReleaseStatus.SHREDDED}
        assert alias.live == job.release == request.release
        self._check_files([r.path for r in releases if r.id == alias.live], user_id)
        self._check_rows(user_id)
        payload = self.certificate(request_id)
        assert payload["release"] == alias.live
        assert all(r.digest in payload["shredded"].values() for r in releases if r.id != alias.live)

    def _check_files(self, expected: list[str], user_id: str) -> None:
        artifacts = self.context.artifacts
        assert artifacts.published() == expected
        assert self.staged() == []
        for path in () if self.real else expected:
            users = {user for user, _ in read_weights(artifacts.local_path(path))}
            assert users
            assert user_id not in users

    def _check_rows(self, user_id: str) -> None:
        with self.context.database.read.connect() as connection:
            for table in Base.metadata.tables:
                rows = map(repr, connection.execute(text(f'SELECT * FROM "{table}"')))
                assert not [row for row in rows if user_id in row], table
        if self.context.database.is_sqlite:
            for path in self.settings.home.glob("lethe.db*"):
                assert user_id.encode() not in path.read_bytes(), path.name


def make_installation(
    database: Database, home: Path, *, real: bool = False, **changes: str
) -> Installation:
    url = database.write.url.render_as_string(hide_password=False)
    values = {
        "LETHE_HOME": str(home),
        "LETHE_DATABASE_URL": url,
        "LETHE_BATCH_SECONDS": "0",
        "LETHE_CANCEL_WINDOW": "0",
        "LETHE_JOB_LEASE": str(LEASE),
        "LETHE_JOB_ATTEMPTS": "20",
        "LETHE_POLL_SECONDS": "0.1",
        "LETHE_RETRY_DELAY": "0",
        "LETHE_WORKER_NICE": "0",
        # Renewals follow deletions by themselves. Tests of other subjects do without.
        "LETHE_EXACT": "off",
        # With few users, each deletion would spend the drift budget.
        "LETHE_DRIFT_ROWS": "1",
        # As long as a machine of CI may stand still. Tests that wait for an end choose less.
        "LETHE_REPLICA_TTL": "60",
        "LETHE_REPLICA_MARGIN": "0.2",
        "LETHE_ROLLOUT_TIMEOUT": "60",
        "LETHE_HASH_KEY": HASH_KEY,
    } | changes
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHE_")} | values
    settings = Settings(
        **{name.removeprefix("LETHE_").lower(): value for name, value in values.items()}  # type: ignore[arg-type] # parsed from strings, as in the environment
    )
    context = build_context(settings, None if real else FileLearner)
    return Installation(settings, environment, context, real)


def close(installation: Installation) -> None:
    """Kill the processes that still run, and disconnect."""
    for worker in installation.workers:
        worker.close()
    for process in installation.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()
    installation.context.close()


def fill(context: WorkerContext) -> None:
    """Store seven users, each with ratings of some of six items."""
    users = [f"u{n}" for n in range(6)] + [PERSON]
    with context.uow_factory() as uow:
        uow.people.upsert_items([(f"i{n}", f"Item {n}", {"genre": ["Drama"]}) for n in range(6)])
        uow.people.ensure_users(users)
        uow.people.upsert_interactions(
            [
                Interaction(user_id=user, item_id=f"i{n}", rating=4.0, timestamp=1000 + n)
                for index, user in enumerate(users)
                for n in range(6)
                if (n + index) % 3
            ],
            version=uow.state.bump("interactions"),
        )


@pytest.fixture
def empty_installation(database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation with data and without a release."""
    installation = make_installation(database, tmp_path)
    fill(installation.context)
    yield installation
    close(installation)


@pytest.fixture
def installation(empty_installation: Installation) -> Installation:
    """Provide an installation with data and a live release."""
    empty_installation.train()
    return empty_installation
