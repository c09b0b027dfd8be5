"""`lethe up`: start, stop, restarts of crashed processes, and no processes left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.support.processes import PATIENCE_SECONDS, ROOT, processes_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Lethe

pytestmark = pytest.mark.slow


class Up:
    """A running `lethe up --port 0 --json`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, home: str) -> None:
        self.process = process
        self.home = home
        self._output = output
        wait_until(lambda: self._document() is not None or process.poll() is not None, "no address")
        document = self._document()
        if document is None:
            pytest.fail(f"lethe up ended: {output.read_text()}")
        self.address = document["address"]

    def _document(self) -> dict[str, str] | None:
        text = self._output.read_text()
        if "{\n" not in text:
            return None
        try:
            document: dict[str, str] = json.JSONDecoder().raw_decode(text[text.index("{\n") :])[0]
        except ValueError:
            return None
        return document

    def child(self, module: str) -> int | None:
        """Return the process id of the child that runs this module, or None."""
        return next(iter(self.children(module)), None)

    def children(self, module: str) -> list[int]:
        """Return the process ids of all children that run this module."""
        process_ids = []
        for process in processes_of(self.home):
            # A process may end after it was listed.
            with suppress(psutil.Error):
                if module in process.cmdline():
                    process_ids.append(process.pid)
        return process_ids


def _lethe(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def arguments() -> tuple[str, ...]:
    return ()


@pytest.fixture
def running(
    lethe: Lethe, environment: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> Iterator[Up]:
    process = lethe("up", "--port", "0", "--json", *arguments)
    try:
        yield Up(process, tmp_path / "output.txt", environment["LETHE_HOME"])
    finally:
        for remaining in processes_of(environment["LETHE_HOME"]):
            remaining.kill()
        process.wait()


def test_up_serves_until_ctrl_c_ends_all_processes(
    running: Up, environment: dict[str, str]
) -> None:
    assert httpx.get(f"{running.address}/healthz", trust_env=False).json()["status"] == "ok"
    wait_until(lambda: running.child("worker") is not None, "no worker")
    # `lethe recommend` calls the service over HTTP and reports its problem.
    ended = _lethe(environment, "recommend", "unknown", "--url", running.address, "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["code"] in {"unknown-user", "no-release"}

    running.process.send_signal(signal.SIGINT)

    assert running.process.wait(30) == 0
    wait_until(lambda: processes_of(running.home) == [], "a process is left")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.address}/healthz", trust_env=False)


def test_children_end_when_the_parent_is_killed(running: Up) -> None:
    wait_until(lambda: None not in map(running.child, ("worker", "app.gateway")), "no children")

    running.process.kill()
    running.process.wait()

    wait_until(lambda: processes_of(running.home) == [], "children outlived their parent")


@pytest.mark.parametrize("module", ["worker", "app.gateway"])
def test_crashed_child_is_restarted(running: Up, module: str) -> None:
    wait_until(lambda: running.child(module) is not None, "the process did not start")
    crashed = running.child(module)
    assert crashed is not None

    os.kill(crashed, signal.SIGKILL)

    wait_until(lambda: running.child(module) not in {None, crashed}, "not restarted")
    # The parent holds the socket, so calls during the restart wait and do not fail.
    answer = httpx.get(f"{running.address}/healthz", trust_env=False, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200


@pytest.mark.parametrize("arguments", [("--replicas", "2")])
def test_crashed_replica_is_restarted_while_the_other_serves(running: Up) -> None:
    def replicas() -> set[str]:
        listed = httpx.get(
            f"{running.address}/releases", trust_env=False, timeout=PATIENCE_SECONDS
        ).json()
        return {replica["id"] for replica in listed["replicas"]}

    wait_until(lambda: len(replicas()) == 2, "not two replicas")
    crashed, other = running.children("app.gateway")
    before = replicas()

    os.kill(crashed, signal.SIGKILL)

    # The other replica answers meanwhile and is not restarted.
    assert httpx.get(f"{running.address}/healthz", trust_env=False).status_code == 200
    wait_until(
        lambda: len(set(running.children("app.gateway")) - {crashed}) == 2,
        "not restarted",
    )
    assert other in running.children("app.gateway")
    wait_until(lambda: len(replicas() - before) == 1, "the new replica did not register")


def test_taken_port_is_reported_with_advice(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _lethe(environment, "up", "--port", str(port))
    assert ended.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (Path(environment["LETHE_HOME"]) / "lethe.db").exists()


def test_network_address_without_keys_is_refused(environment: dict[str, str]) -> None:
    ended = _lethe(environment, "up", "--host", "0.0.0.0", "--port", "0", "--json")
    assert ended.returncode == 2
    assert "LETHE_API_KEYS" in json.loads(ended.stdout)["error"]["message"]
