"""Test slow, excessive and malformed requests over real sockets."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.gateway_server import gateway_server
from tests.support.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.support.gateway_world import World

_POST = b"POST /forget HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def _gateway(world: World, **changes: float) -> AbstractContextManager[tuple[str, int]]:
    return gateway_server(world.settings.model_copy(update=changes))


def _connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE_SECONDS)


def _read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_incomplete_requests_time_out_while_others_are_answered(world: World) -> None:
    unfinished = [b"", b"GET /healthz HTT", _POST, _POST + b"Content-Length: 9\r\n\r\n{"]
    with _gateway(world, request_timeout=1.0) as address:
        connections = [_connect(address) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.sendall(unfinished[number % 4])
        url = f"http://127.0.0.1:{address[1]}/healthz"
        assert [httpx.get(url).status_code for _ in range(5)] == [200] * 5
        answers = [_read_to_end(connection) for connection in connections]
        for number, answer in enumerate(answers):
            if number % 4 == 3:
                assert answer.startswith(b"HTTP/1.1 408 ")
                document = json.loads(answer.partition(b"\r\n\r\n")[2])
                assert document["type"] == "/problems/request-timeout"
            else:
                assert answer == b""
        for connection in connections:
            connection.close()
        assert httpx.get(url).status_code == 200


def test_a_connection_beyond_the_maximum_is_closed(world: World) -> None:
    with _gateway(world, max_connections=5) as address:
        connections = [_connect(address) for _ in range(5)]
        for connection in connections:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with _connect(address) as further:
            assert _read_to_end(further) == b""
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_body_is_refused_before_it_is_received(world: World, announced: bool) -> None:
    with _gateway(world) as address, _connect(address) as connection:
        if announced:
            connection.sendall(_POST + b"Content-Length: 50000000\r\n\r\n")
        else:
            connection.sendall(_POST + b"Transfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            for _ in range(1 + world.settings.max_body_bytes // 0x10000):
                connection.sendall(chunk)
        # A gateway that waited for the whole body would answer 408.
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "target",
    [b"/users/%00", b"/users/%ff%fe", b"/users/%zz%0a", b"/items/" + b"a" * 60_000, b"/items/%"],
)
def test_an_invalid_path_is_a_client_error(world: World, target: bytes) -> None:
    with _gateway(world) as address, _connect(address) as connection:
        lines = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(b"GET " + target + lines)
        answer = _read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'[{"user_id": "u1", "item_id": "i1", "rating": NaN, "timestamp": 1}]',
        b'[{"user_id": "u1", "item_id": "i1", "rating": 4, "timestamp": 1' + b"0" * 5000 + b"}]",
        b'[{"user_id": "\xff\xfe", "item_id": "i1", "rating": 4, "timestamp": 1}]',
        b'[{"user_id": "\\ud800", "item_id": "i1", "rating": 4, "timestamp": 1}]',
    ],
    ids=["deep", "nan", "huge", "utf8", "surrogate"],
)
def test_an_invalid_body_is_a_client_error(world: World, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with _gateway(world) as address:
        url = f"http://127.0.0.1:{address[1]}/interactions"
        answer = httpx.post(url, content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "sent",
    [
        _POST + b"Content-Length: -1\r\n\r\n",
        _POST + b"Idempotency-Key: \x01\r\n\r\n",
        b"nonsense\r\n\r\n",
        _POST + b"X: " + b"x" * 200_000,
    ],
    ids=["length", "control", "nonsense", "endless"],
)
def test_invalid_http_is_refused_with_a_problem_document(world: World, sent: bytes) -> None:
    with _gateway(world) as address, _connect(address) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"/problems/bad-request" in answer
