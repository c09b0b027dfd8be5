"""Test that a gateway in front of an engine runs and answers without torch installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from tests.support.processes import wait_until
from tests.support.protocol_server import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.app.serving.scorers.engines.conftest import TextWorld

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[5]
#: Importing torch or peft fails here as if they were not installed.
GATEWAY: Final = (
    "import sys; sys.modules['torch'] = sys.modules['peft'] = None;"
    " from app.gateway import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def gateway(texts: TextWorld, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m app.gateway` without torch on a socket of the test, and its URL."""
    settings = texts.world.settings
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    environment = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "LETHE_HOME": str(settings.home),
        "LETHE_SCORER": settings.scorer,
        "LETHE_ENGINE_URL": texts.engine.url,
        "LETHE_ENGINE_KEY": KEY,
        "LETHE_CANDIDATES": "20",
    }
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, "--fd", str(listening.fileno())],
            cwd=ROOT,
            env=environment,
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    yield process, f"http://127.0.0.1:{listening.getsockname()[1]}"
    process.terminate()
    process.wait(30)
    listening.close()


def test_a_gateway_without_torch_answers_with_the_scores_of_torch(
    texts: TextWorld, gateway: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    name = texts.first()
    process, url = gateway

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, "the gateway does not become ready")
    answer = httpx.get(f"{url}/recommend/u1?n=10", trust_env=False).json()
    assert answer["release"] == name
    assert len(answer["items"]) == 10
    expected = texts.world.scores(name, "u1", [item["item_id"] for item in answer["items"]])
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected, abs=1e-4)


def test_a_gateway_without_torch_cannot_score_by_itself(tmp_path: Path) -> None:
    """The same process with LETHE_SCORER=torch fails, so the test above proves its point."""
    result = subprocess.run(
        [sys.executable, "-c", GATEWAY],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LETHE_HOME": str(tmp_path),
            "LETHE_SCORER": "torch",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    assert b"import of torch halted" in result.stderr
