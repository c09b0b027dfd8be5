"""Every service of docker-compose.yml, its own command run by hand, without a container engine.

The commands, environments and health checks are read from the file, so that what is tested is what
compose would start. Only addresses are replaced: a fresh PostgreSQL database, a Redis database of
its own, a temporary home and a free port.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = ("migrate", "gateway", "worker", "relay")
POSTGRES_URL = os.environ.get("LETHE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432")
_REDIS = urlsplit(os.environ.get("LETHE_TEST_REDIS_URL", "redis://127.0.0.1:6379"))
#: A database of Redis that no other test uses.
REDIS_URL = _REDIS._replace(path="/12").geturl()
API_KEY = "a key for this test only"
_TIMEOUT_SECONDS = 90.0
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def _interpolate(value: str, given: dict[str, str]) -> str:
    """Replace ${NAME}, ${NAME:-default} and ${NAME:?message} as compose does."""

    def one(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if given.get(name):
            return given[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return _VARIABLE.sub(one, value)


def _required() -> set[str]:
    """Return the variables that compose refuses to start without."""
    asked = {
        m[1] for m in _VARIABLE.finditer((ROOT / "docker-compose.yml").read_text()) if m[2] == "?"
    }
    return asked | {secret["environment"] for secret in COMPOSE["secrets"].values()}


class Stack:
    """The services' processes, in the environment that compose would give them."""

    def __init__(self, database_url: str, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._home = home
        signing = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self._given = {
            "LETHE_API_KEYS": API_KEY,
            "LETHE_HASH_KEY": "a hash key for this test only",
            "LETHE_SIGNING_KEY": signing.decode(),
            "POSTGRES_PASSWORD": "unused: local trust",
        }
        self._replaced = {
            "LETHE_HOME": str(home / "home"),
            "LETHE_DATABASE_URL": database_url,
            "LETHE_BROKER_URL": REDIS_URL,
        }
        self._hurried = {
            "LETHE_POLL_SECONDS": "0.1",
            "LETHE_CANCEL_WINDOW": "0",
            "LETHE_BATCH_SECONDS": "0",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, service: str) -> dict[str, str]:
        declared = {
            name: _interpolate(str(value), self._given)
            for name, value in COMPOSE["services"][service]["environment"].items()
        }
        secrets = {
            COMPOSE["secrets"][name]["environment"]: self._given[name.upper()]
            for name in COMPOSE["services"][service]["secrets"]
        }
        missing = self._replaced.keys() - declared.keys()
        assert not missing, f"{service} lacks {missing}"
        port = {"LETHE_PORT": str(self.port)} if "LETHE_PORT" in declared else {}
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("LETHE_", "PG"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        own = {**self._replaced, **self._hurried, **port, "PATH": path}
        return {**inherited, **declared, **secrets, **own}

    def start(self, service: str) -> None:
        with self.log(service).open("wb") as log:
            self._processes[service] = subprocess.Popen(
                COMPOSE["services"][service]["command"],
                cwd=ROOT,
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, service: str) -> Path:
        return self._home / f"{service}.log"

    def is_healthy(self, service: str) -> bool:
        """Run the service's own health check."""
        if self._processes[service].poll() is not None:
            pytest.fail(f"{service} ended: {self.log(service).read_text()[-2000:]}")
        kind, *check = COMPOSE["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            check, cwd=ROOT, env=self.environment(service), capture_output=True, check=False
        )
        return done.returncode == 0

    def wait(self, service: str) -> int:
        return self._processes[service].wait(_TIMEOUT_SECONDS)

    def stop(self, service: str) -> int:
        """Stop it as compose does, within its grace period; return the exit status."""
        process = self._processes.pop(service)
        process.terminate()
        grace = COMPOSE["services"][service]["stop_grace_period"]
        return process.wait(float(grace.removesuffix("s")))

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def _needed(reason: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def database_url() -> Iterator[str]:
    """A fresh, empty database: the migrate service makes its tables."""
    name = f"lethe_compose_{uuid.uuid4().hex}"
    try:
        server = psycopg.connect(f"{POSTGRES_URL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        _needed(f"PostgreSQL does not answer at {POSTGRES_URL}: {error}")
        raise
    with server:
        server.execute(f'CREATE DATABASE "{name}"')
        yield f"{POSTGRES_URL}/{name}"
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.close()


@pytest.fixture
def uow_factory(database_url: str) -> Iterator[UnitOfWorkFactory]:
    database = make_database(database_url)
    yield UnitOfWorkFactory(database)
    database.dispose()


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(REDIS_URL)
    try:
        client.flushdb()
    except redis.ConnectionError as error:
        _needed(f"Redis does not answer at {REDIS_URL}: {error}")
    with client:
        yield client
        client.flushdb()


def _wait_until(condition: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out: {why}")
        time.sleep(0.1)


@pytest.fixture
def stack(database_url: str, broker: redis.Redis, tmp_path: Path) -> Iterator[Stack]:
    _ = broker
    made = Stack(database_url, tmp_path)
    try:
        yield made
    finally:
        made.kill()


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.slow
def test_every_service_starts_gets_healthy_works_and_stops(
    stack: Stack, uow_factory: UnitOfWorkFactory
) -> None:
    stack.start("migrate")
    assert stack.wait("migrate") == 0, stack.log("migrate").read_text()
    for service in ("gateway", "worker", "relay"):
        stack.start(service)
    for service in ("gateway", "worker", "relay"):
        _wait_until(lambda name=service: stack.is_healthy(name), f"{service} is not healthy")

    address = f"http://127.0.0.1:{stack.port}"
    assert httpx.get(f"{address}/jobs", trust_env=False).status_code == 401
    headers = {"Authorization": f"Bearer {API_KEY}"}
    assert httpx.get(f"{address}/jobs", headers=headers, trust_env=False).status_code == 200

    # A whole deletion: gateway → outbox → relay → Redis → Celery → database.
    with uow_factory() as uow:
        uow.people.ensure_users(["ann"])
    asked = httpx.post(
        f"{address}/forget", json={"user_id": "ann"}, headers=headers, trust_env=False
    )
    assert asked.status_code == 202

    def owed() -> int:
        with uow_factory(write=False) as uow:
            return uow.outbox.overdue(-1.0)

    def status() -> str:
        location = f"{address}{asked.headers['Location']}"
        found = httpx.get(location, headers=headers, trust_env=False)
        return str(found.json()["status"])

    _wait_until(lambda: status() == "completed", "the deletion did not complete")
    with uow_factory(write=False) as uow:
        assert uow.people.user("ann") is None
    # A wake-up is sent before it is marked, so the deletion may be done first.
    _wait_until(lambda: owed() == 0, "the relay did not mark its wake-ups as sent")

    for service in ("gateway", "worker", "relay"):
        assert stack.stop(service) in {0, -15}, stack.log(service).read_text()[-2000:]


@pytest.mark.parametrize("service", OURS)
def test_the_images_services_run_with_little_privilege(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["user"] == "10001:10001"
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["environment"]["LETHE_ENVIRONMENT"] == "production"


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_every_service_restarts_and_is_checked(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["restart"].startswith(("unless-stopped", "on-failure"))
    once = service == "migrate"
    assert ("test" in settings["healthcheck"]) is not once
    assert ("stop_grace_period" in settings) is not once
    assert settings.get("user", "root") != "root"


def test_nothing_starts_without_its_secrets() -> None:
    assert _required() == {
        "LETHE_API_KEYS",
        "LETHE_HASH_KEY",
        "LETHE_SIGNING_KEY",
        "POSTGRES_PASSWORD",
    }


def test_the_database_and_the_broker_are_not_reachable_from_outside() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    published = {name for name, one in COMPOSE["services"].items() if "ports" in one}
    assert published == {"gateway"}
    for service in ("postgres", "redis"):
        assert COMPOSE["services"][service]["networks"] == ["inside"]


def test_the_image_carries_no_secrets_and_no_data() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored
    assert not {"!.env", "!data", "!.lethe", "!."} & set(ignored)
