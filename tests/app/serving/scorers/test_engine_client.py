"""Connections that break are tried again, and not for ever; golden prompts must be some."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import EngineError
from app.serving.scorers.engine_scorer import Engine, Golden
from app.serving.scorers.vllm import VllmWire
from app.settings import Settings
from models.checkpoints.manifest import CheckpointError, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODELS = b'{"data": [{"id": "base"}]}'
HEAD = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
ANSWER = HEAD.format(len(MODELS)).encode() + MODELS


class Fragile:
    """Hangs up on the first `breaks` connections, and then lists one model."""

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
def fragile() -> Iterator[Fragile]:
    server = Fragile()
    yield server
    server.close()


def engine_at(url: str, home: Path) -> Engine:
    return Engine(Settings(home=home, scorer="vllm", engine_url=url), VllmWire())


def test_a_connection_that_breaks_is_made_again(fragile: Fragile, tmp_path: Path) -> None:
    engine = engine_at(fragile.url, tmp_path)
    fragile.breaks = 2
    assert engine.names() == {"base"}
    assert fragile.calls == 3
    engine.close()


def test_but_not_for_ever(fragile: Fragile, tmp_path: Path) -> None:
    engine = engine_at(fragile.url, tmp_path)
    fragile.breaks = 100
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.names()
    assert fragile.calls == 3
    engine.close()


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
    golden = Golden.of(manifest(tokens=[[5, 6, 0]], mask=[[1, 1, 0]], reference=[[0.0, 0.0]]))
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
def test_a_release_that_nothing_can_be_held_to_is_refused(golden: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        Golden.of(manifest(**golden))
