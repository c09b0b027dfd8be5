"""The service of the restore drill: its processes, its calls, and backups of its parts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import psutil
import psycopg
import redis

from app.cli.processes import ROOT, Child, Children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POSTGRES_URL: Final = os.environ.get(
    "LETHE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432"
)
#: Calls that must never succeed for a forgotten person.
PERSON_STATES: Final = ("/recommend/{forgotten}", "/users/{forgotten}")
_START_TIMEOUT: Final = 120.0
_COMMAND_TIMEOUT: Final = 600.0
_PAUSE: Final = 0.1


class ServiceError(Exception):
    """A command or a call of the drill failed."""


@dataclass(frozen=True, slots=True)
class Backup:
    """Copies of the database, of LETHE_HOME and of the ledger in one directory."""

    directory: Path

    @property
    def database(self) -> Path:
        return self.directory / "database"

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"


@dataclass(slots=True, kw_only=True)
class Service:
    """An installation on this machine, with SQLite, or with PostgreSQL, Redis and Celery."""

    directory: Path
    port: int
    environment: dict[str, str]
    #: Name of the PostgreSQL database; None with SQLite.
    database: str | None = None
    _children: Children | None = None

    @classmethod
    def create(cls, directory: Path, database: str, redis_url: str, holdout_share: float) -> Self:
        """Create the databases; LETHE_HOME and the ledger are in `directory`."""
        for name in [name for name in os.environ if name.startswith("LETHE_")]:
            del os.environ[name]  # Settings of another installation.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            "LETHE_HOME": str(directory / "home"),
            "LETHE_CANCEL_WINDOW": "0",
            "LETHE_BATCH_SECONDS": "0",
            "LETHE_POLL_SECONDS": "0.1",
            "LETHE_WORKER_NICE": "0",
            "LETHE_HOLDOUT_SHARE": str(holdout_share),
        }
        service = cls(directory=directory, port=port, environment=environment)
        if database == "postgresql":
            service.database = f"lethe_drill_{uuid.uuid4().hex[:12]}"
            service._administer(f'CREATE DATABASE "{service.database}"')
            environment |= {
                "LETHE_DATABASE_URL": f"{POSTGRES_URL}/{service.database}",
                "LETHE_BROKER_URL": redis_url,
            }
            redis.Redis.from_url(redis_url).flushdb()
        return service

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def ledger(self) -> Path:
        return self.directory / "home-ledger"

    def start(self, *, wait: bool = True) -> None:
        """Start all processes, and with `wait` return when the gateway is ready."""
        self._children = Children()
        modules: list[tuple[str, str, list[str]]] = [
            ("up", "app.cli", ["up", "--port", str(self.port)])
        ]
        if self.database is not None:
            celery = ["--app=worker.celery_app", "worker", "--loglevel=WARNING", "--pool=solo"]
            modules += [("celery", "celery", celery), ("relay", "worker", ["relay"])]
        for name, module, arguments in modules:
            self._children.start(
                Child(
                    name=name,
                    module=module,
                    arguments=arguments,
                    environment=self.environment,
                    log=self.directory / f"{name}.log",
                )
            )
        if wait:
            self.wait_for(
                lambda: self.answer("GET", "/readyz").startswith("200"),
                _START_TIMEOUT,
                "the service does not become ready",
            )

    def restart_ended(self) -> list[str]:
        """Start the processes that have ended again, and return their names."""
        children = [] if self._children is None else self._children._children  # noqa: SLF001
        ended = [child for child in children if child.exit_status() is not None]
        for child in ended:
            child.start()
        return [child.name for child in ended]

    def stop(self) -> None:
        """Stop all processes and wait until the last one has ended."""
        if self._children is not None:
            self._children.stop(*self._children._children)  # noqa: SLF001 -- a copy of the list
            self._children = None
        self.wait_for(lambda: not self._processes(), 60.0, "processes do not end")

    def close(self) -> None:
        """Stop, and drop the database."""
        with suppress(ServiceError):
            self.stop()
        if self.database is not None:
            self._administer(f'DROP DATABASE "{self.database}" WITH (FORCE)')
            redis.Redis.from_url(self.environment["LETHE_BROKER_URL"]).flushdb()

    def command(self, *arguments: str, **environment: str) -> Any:
        """Run `lethe … --json` and return its document; raises ServiceError."""
        ended = self._lethe(*arguments, **environment)
        if ended.returncode:
            raise ServiceError(f"lethe {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
        return json.loads(ended.stdout)

    def restore_check(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run `lethe restore-check` and return its exit status and its document."""
        ended = self._lethe("restore-check", *arguments)
        if not ended.stdout.startswith("{"):
            raise ServiceError(f"lethe restore-check: {ended.stdout}{ended.stderr}")
        answer = json.loads(ended.stdout)
        if "error" in answer:
            raise ServiceError(f"lethe restore-check: {answer['error']['message']}")
        return ended.returncode, answer

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API and return the answer; raises ServiceError for a problem."""
        response = httpx.request(
            method, f"http://127.0.0.1:{self.port}{path}", json=body, trust_env=False, timeout=60
        )
        if response.is_error:
            raise ServiceError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def answer(self, method: str, path: str) -> str:
        """Return the status of a call with the kind of problem, or why there is no answer."""
        try:
            response = httpx.request(
                method, f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=60
            )
        except httpx.HTTPError:
            return "no answer"
        if response.is_success:
            return str(response.status_code)
        document = response.json()
        reasons = document.get("reasons") or [str(document.get("type", "")).rpartition("/")[2]]
        return f"{response.status_code} ({'; '.join(map(str, reasons))})"

    def wait_for(self, condition: Callable[[], bool], seconds: float, why: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise ServiceError(f"{why}\n{self.log_tail()}")
            time.sleep(_PAUSE)

    def log_tail(self) -> str:
        """Return the last lines of all logs."""
        return "\n".join(
            f"{path.name}: {line}"
            for path in sorted(self.directory.glob("*.log"))
            for line in path.read_text(errors="replace").splitlines()[-15:]
        )

    def back_up(self, name: str) -> Backup:
        """Copy database, home and ledger. The drill keeps the ledger to repeat its parts."""
        backup = Backup(self.directory / name)
        backup.directory.mkdir()
        shutil.copytree(self.home, backup.home)
        shutil.copytree(self.ledger, backup.ledger)
        if self.database is not None:
            self._postgresql("pg_dump", "--format=custom", "--file", str(backup.database))
        else:
            with (
                closing(sqlite3.connect(self.home / "lethe.db")) as source,
                closing(sqlite3.connect(backup.database)) as target,
            ):
                source.backup(target)
        return backup

    def put_back(self, after: Backup, backup: Backup, mix: str) -> None:
        """Return to the state `after`, then restore the parts of the mix from the backup."""
        home = backup.home if mix == "home" else after.home
        for source, target in ((home, self.home), (after.ledger, self.ledger)):
            shutil.rmtree(target)
            shutil.copytree(source, target)
        if mix in {"artifacts", "both"}:
            shutil.rmtree(self.home / "artifacts")
            shutil.copytree(backup.home / "artifacts", self.home / "artifacts")
        self._put_back_database((after if mix == "artifacts" else backup).database)

    def _put_back_database(self, copy: Path) -> None:
        if self.database is None:
            for path in self.home.glob("lethe.db*"):
                path.unlink()
            shutil.copy(copy, self.home / "lethe.db")
            return
        self._administer(f'DROP DATABASE "{self.database}" WITH (FORCE)')
        self._administer(f'CREATE DATABASE "{self.database}"')
        self._postgresql("pg_restore", "--exit-on-error", "--no-owner", str(copy))

    def _postgresql(self, program: str, *arguments: str) -> None:
        command = [program, "--dbname", f"{POSTGRES_URL}/{self.database}", *arguments]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 -- our own command

    @staticmethod
    def _administer(statement: str) -> None:
        with psycopg.connect(f"{POSTGRES_URL}/postgres", autocommit=True) as server:
            server.execute(statement.encode())

    def _lethe(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 -- our own module
            [sys.executable, "-m", "app.cli", *arguments, "--json"],
            cwd=ROOT,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )

    def _processes(self) -> list[int]:
        """Return the ids of the processes that work on this LETHE_HOME."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.environ().get("LETHE_HOME") == str(self.home)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found
