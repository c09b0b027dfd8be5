"""Limit the time and the number of client connections of a gateway.

uvicorn waits without limit for a request that is never completed. A few thousand such sockets
would use up the process's file descriptors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.problems import HTTP_PROBLEMS, problem

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from app.settings import Settings

_BAD_REQUEST: Final = 400
_TIMEOUT: Final = 408
#: The maximum size of a request line with its headers, in bytes.
_MAX_HEADER_BYTES: Final = 128 * 1024


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a timeout for complete requests and a maximum number of connections."""

    request_timeout: float
    max_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the protocol with uvicorn's arguments."""
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._has_headers = False
        self._header_bytes = 0
        self._cycles: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._start_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timeout()
        super().connection_lost(exc)
        # Of pipelined requests, uvicorn tells only the last that the client has left.
        for cycle in self._open_cycles():
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        # uvicorn's keep-alive timeout ends with any received byte, even one that starts no
        # request, so the request timeout starts again here.
        if self.cycle is None or self.cycle.response_complete:
            self._start_timeout()
        super().data_received(data)
        if not self._has_headers and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        self._has_headers = False
        self._start_timeout()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._cycles = [*self._open_cycles(), self.cycle]
        self._has_headers = True
        self._header_bytes = 0

    def on_message_complete(self) -> None:
        self._stop_timeout()
        super().on_message_complete()

    def _open_cycles(self) -> list[RequestResponseCycle]:
        return [cycle for cycle in self._cycles if not cycle.response_complete]

    def _start_timeout(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.request_timeout, self._on_timeout)

    def _stop_timeout(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_timeout(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._has_headers and not self.cycle.response_started:
            self._send_problem(_TIMEOUT)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn logs the message
        self._send_problem(_BAD_REQUEST)
        self.transport.close()

    def _send_problem(self, status: int) -> None:
        answer = problem(HTTP_PROBLEMS[status], headers={"Connection": "close"})
        fields = b"".join(b"%s: %s\r\n" % field for field in answer.raw_headers)
        self.transport.write(STATUS_LINE[status] + fields + b"\r\n" + bytes(answer.body))


def limited_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """Return a protocol class with the limits of these settings."""

    class Limited(LimitedProtocol):
        request_timeout = settings.request_timeout
        max_connections = settings.max_connections

    return Limited
