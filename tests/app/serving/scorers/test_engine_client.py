"""Test that broken connections are retried a few times and that golden prompts are required."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import EngineError
from app.serving.scorers.engine_client import EngineClient, GoldenPrompts
from app.serving.scorers.vllm import VllmWire
from app.settings import Settings
from models.checkpoints.manifest import CheckpointError, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODELS = b'{"data": [{"id": "base"}]}'
HEAD = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
ANSWER = HEAD.format(len(MODELS)).encode() + MODELS


class UnreliableServer:
    """A server that closes the first `breaks` connections, and then lists one model."""

    def __init__(self) -> None:
        self.breaks = 0
        self.calls = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                self.calls += 1
                if self.calls > self.breaks:
                    connection.sendall(ANSWER)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[UnreliableServer]:
    server = UnreliableServer()
    yield server
    server.close()


def client_of(url: str, home: Path) -> EngineClient:
    return EngineClient(Settings(home=home, scorer="vllm", engine_url=url), VllmWire())


def test_a_broken_connection_is_retried(server: UnreliableServer, tmp_path: Path) -> None:
    client = client_of(server.url, tmp_path)
    server.breaks = 2
    assert client.names() == {"base"}
    assert server.calls == 3
    client.close()


def test_a_connection_that_breaks_three_times_is_an_error(
    server: UnreliableServer, tmp_path: Path
) -> None:
    client = client_of(server.url, tmp_path)
    server.breaks = 100
    with pytest.raises(EngineError, match="cannot be reached"):
        client.names()
    assert server.calls == 3
    client.close()


def manifest(**golden: Any) -> Manifest:
    return Manifest(
        digest="",
        weights_digest="",
        method="train",
        parent=None,
        extra={},
        content={"golden": golden} if golden else {},
    )


def test_golden_prompts_are_read_without_their_padding() -> None:
    golden = GoldenPrompts.of(
        manifest(tokens=[[5, 6, 0]], mask=[[1, 1, 0]], reference=[[0.0, 0.0]])
    )
    assert (golden.rows, golden.scores) == ([[5, 6]], [0.5])


@pytest.mark.parametrize(
    "golden",
    [
        {},
        {"tokens": [], "mask": [], "reference": []},
        {"tokens": [[5]], "mask": [[0]], "reference": [[0.0, 0.0]]},
        {"tokens": [[5]], "mask": [[1]], "reference": []},
        {"tokens": [[5]], "mask": [[1]], "reference": [[0.0, 1e9]]},
        {"tokens": [[5]], "reference": [[0.0, 0.0]]},
    ],
)
def test_a_release_without_usable_golden_prompts_is_refused(golden: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        GoldenPrompts.of(manifest(**golden))
