"""The services of docker-compose.yml, run as processes without a container engine.

Commands, environments and health checks come from the file. Only addresses are replaced: a new
PostgreSQL database, a separate Redis database, a temporary data directory and a free port.
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

pytestmark = pytest.mark.slow

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


def _interpolate(value: str, variables: dict[str, str]) -> str:
    """Replace ${NAME}, ${NAME:-default} and ${NAME:?message} as compose does."""

    def replacement(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return _VARIABLE.sub(replacement, value)


def _required() -> set[str]:
    """Return the variables without which compose does not start."""
    names = {
        m[1] for m in _VARIABLE.finditer((ROOT / "docker-compose.yml").read_text()) if m[2] == "?"
    }
    return names | {secret["environment"] for secret in COMPOSE["secrets"].values()}


class Stack:
    """The processes of the services, with the environment that compose would set."""

    def __init__(self, database_url: str, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._home = home
        signing = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self._variables = {
            "LETHE_API_KEYS": API_KEY,
            "LETHE_HASH_KEY": "a hash key for this test only",
            "LETHE_SIGNING_KEY": signing.decode(),
            "POSTGRES_PASSWORD": "unused: local trust",
        }
        self._replaced = {
            "LETHE_HOME": str(home / "home"),
            "LETHE_LEDGER_URL": str(home / "ledger"),
            "LETHE_DATABASE_URL": database_url,
            "LETHE_BROKER_URL": REDIS_URL,
        }
        self._short_delays = {
            "LETHE_POLL_SECONDS": "0.1",
            "LETHE_CANCEL_WINDOW": "0",
            "LETHE_BATCH_SECONDS": "0",
            # At a lower priority than the tests beside it, a worker would hardly proceed.
            "LETHE_WORKER_NICE": "0",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, service: str) -> dict[str, str]:
        from_file = {
            name: _interpolate(str(value), self._variables)
            for name, value in COMPOSE["services"][service]["environment"].items()
        }
        secrets = {
            COMPOSE["secrets"][name]["environment"]: self._variables[name.upper()]
            for name in COMPOSE["services"][service]["secrets"]
        }
        missing = self._replaced.keys() - from_file.keys()
        assert not missing, f"{service} lacks {missing}"
        port = {"LETHE_PORT": str(self.port)} if "LETHE_PORT" in from_file else {}
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("LETHE_", "PG"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        own = {**self._replaced, **self._short_delays, **port, "PATH": path}
        return {**inherited, **from_file, **secrets, **own}

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
        ended = subprocess.run(
            check, cwd=ROOT, env=self.environment(service), capture_output=True, check=False
        )
        return ended.returncode == 0

    def wait(self, service: str) -> int:
        return self._processes[service].wait(_TIMEOUT_SECONDS)

    def stop(self, service: str) -> int:
        """Stop the service like compose, within its grace period; return the exit status."""
        process = self._processes.pop(service)
        process.terminate()
        grace = COMPOSE["services"][service]["stop_grace_period"]
        return process.wait(float(grace.removesuffix("s")))

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def _skip_or_fail(reason: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def database_url() -> Iterator[str]:
    """Create an empty database; the migrate service creates the tables."""
    name = f"lethe_compose_{uuid.uuid4().hex}"
    try:
        server = psycopg.connect(f"{POSTGRES_URL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        _skip_or_fail(f"PostgreSQL does not answer at {POSTGRES_URL}: {error}")
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
        _skip_or_fail(f"Redis does not answer at {REDIS_URL}: {error}")
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
    services = Stack(database_url, tmp_path)
    try:
        yield services
    finally:
        services.kill()


@pytest.mark.postgres
@pytest.mark.redis
def test_services_start_complete_a_deletion_and_stop(
    stack: Stack, uow_factory: UnitOfWorkFactory, tmp_path: Path
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
    response = httpx.post(
        f"{address}/forget", json={"user_id": "ann"}, headers=headers, trust_env=False
    )
    assert response.status_code == 202

    def unsent_wake_ups() -> int:
        with uow_factory(write=False) as uow:
            return uow.outbox.overdue(-1.0)

    def status() -> str:
        location = f"{address}{response.headers['Location']}"
        request = httpx.get(location, headers=headers, trust_env=False)
        return str(request.json()["status"])

    _wait_until(lambda: status() == "completed", "the deletion did not complete")
    with uow_factory(write=False) as uow:
        assert uow.people.user("ann") is None
    # A wake-up is sent before it is marked as sent, so the deletion may complete first.
    _wait_until(lambda: unsent_wake_ups() == 0, "the relay did not mark its wake-ups as sent")

    entries = list((tmp_path / "ledger").glob("*/entries/*/*.json"))
    assert len(entries) == 2  # Accepted and completed.
    assert list((tmp_path / "ledger").glob("*/checkpoints/*.json"))

    for service in ("gateway", "worker", "relay"):
        assert stack.stop(service) in {0, -15}, stack.log(service).read_text()[-2000:]


@pytest.mark.parametrize("service", OURS)
def test_services_of_the_image_run_without_privileges(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["user"] == "10001:10001"
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["environment"]["LETHE_ENVIRONMENT"] == "production"


@pytest.mark.parametrize("service", OURS)
def test_every_process_gets_the_id_rule(service: str) -> None:
    environment = COMPOSE["services"][service]["environment"]
    assert environment["LETHE_ID_RULE"] == "${LETHE_ID_RULE:-exact}"


@pytest.mark.parametrize("service", OURS)
def test_every_process_has_the_ledger_on_a_volume_of_its_own(service: str) -> None:
    settings = COMPOSE["services"][service]
    places = dict(volume.split(":") for volume in settings["volumes"])
    assert places.keys() <= COMPOSE["volumes"].keys()
    ledger = _interpolate(settings["environment"]["LETHE_LEDGER_URL"], {})
    home = settings["environment"]["LETHE_HOME"]
    assert places == {"lethe": home, "ledger": ledger}
    assert not Path(ledger).is_relative_to(home)
    # The image has the directory, so that a new volume gets its owner and mode.
    assert f"chown lethe:lethe {ledger}" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_every_service_has_a_restart_policy_and_a_health_check(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["restart"].startswith(("unless-stopped", "on-failure"))
    once = service == "migrate"
    assert ("test" in settings["healthcheck"]) is not once
    assert ("stop_grace_period" in settings) is not once
    assert settings.get("user", "root") != "root"


def test_secrets_are_required() -> None:
    assert _required() == {
        "LETHE_API_KEYS",
        "LETHE_HASH_KEY",
        "LETHE_SIGNING_KEY",
        "POSTGRES_PASSWORD",
    }


def test_only_the_worker_has_the_signing_key() -> None:
    secrets = {name: set(COMPOSE["services"][name]["secrets"]) for name in OURS}
    assert secrets.pop("worker") == {"lethe_hash_key", "lethe_signing_key"}
    assert set(map(frozenset, secrets.values())) == {frozenset({"lethe_hash_key"})}


def test_only_the_gateway_publishes_a_port() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    published = {name for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"gateway"}
    for service in ("postgres", "redis"):
        assert COMPOSE["services"][service]["networks"] == ["inside"]


def test_image_has_no_secrets_and_no_data() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored
    assert not {"!.env", "!data", "!.lethe", "!."} & set(ignored)
