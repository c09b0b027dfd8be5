"""Complete deletions through Celery, Redis, PostgreSQL and the relay, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.faults.conftest import close, fill, make_installation
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.engine import Database
    from tests.faults.conftest import Installation

BROKER = os.environ.get("LETHE_TEST_REDIS_URL", "redis://127.0.0.1:6379/13")
WORKER = Path(__file__).parents[1] / "support" / "celery_worker.py"

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.postgres]


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(BROKER)
    try:
        client.flushdb()
    except redis.ConnectionError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"Redis does not answer: {error}")
        pytest.skip(f"Redis does not answer: {error}")
    yield client
    client.flushdb()
    client.close()


@pytest.fixture
def installation(
    postgres_database: Database, broker: redis.Redis, tmp_path: Path
) -> Iterator[Installation]:
    """Provide an installation with a live release, on PostgreSQL, with Redis as the broker."""
    installation = make_installation(postgres_database, tmp_path, LETHE_BROKER_URL=BROKER)
    fill(installation.context)
    installation.train()
    broker.flushdb()
    yield installation
    close(installation)


def start(installation: Installation, *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, *command], env=installation.environment)
    installation.processes.append(process)
    return process


def start_relay(installation: Installation) -> subprocess.Popen[bytes]:
    return start(installation, "-m", "worker", "relay")


def start_worker(installation: Installation) -> subprocess.Popen[bytes]:
    return start(installation, str(WORKER))


def wait_for_completion(installation: Installation, request_id: str) -> None:
    """Poll the database until another process has completed the request."""
    wait_until(
        lambda: installation.request(request_id).completed_at is not None,
        f"the request {request_id} is not completed",
    )


def terminate(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=PATIENCE_SECONDS)


def test_relay_and_celery_worker_complete_deletion(installation: Installation) -> None:
    worker, relay = start_worker(installation), start_relay(installation)
    request_id = installation.forget()
    wait_for_completion(installation, request_id)
    installation.check_forgotten(request_id)
    assert terminate(worker) == 0
    assert terminate(relay) == 0


def test_lost_messages_are_sent_again(installation: Installation, broker: redis.Redis) -> None:
    """The broker loses all messages before a worker starts."""
    relay = start_relay(installation)
    request_id = installation.forget()
    wait_until(lambda: bool(broker.llen("lethe")), "the relay sends no message")
    broker.flushdb()
    start_worker(installation)
    wait_for_completion(installation, request_id)
    installation.check_forgotten(request_id)
    assert terminate(relay) == 0
