"""What one connection may take of a gateway: time to say what it asks, and a place among many.

uvicorn waits for ever for a request that is never completed; a few thousand such sockets would
otherwise use up the process's files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.problems import HTTP_PROBLEMS, problem

if TYPE_CHECKING:
    import asyncio

    from app.settings import Settings

_BAD_REQUEST: Final = 400
_TIMEOUT: Final = 408
#: A request line and headers beyond this many bytes are refused before they are complete.
_MAX_HEAD: Final = 128 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests must be complete in time, on a bounded number of connections."""

    request_timeout: float
    max_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what uvicorn gives a protocol."""
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._has_headers = False
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Any byte ends uvicorn's own wait on an idle connection, even one that begins no request.
        if self.cycle is None or self.cycle.response_complete:
            self._expect_request()
        super().data_received(data)
        if not self._has_headers and not self.transport.is_closing():
            self._head += len(data)
            if self._head > _MAX_HEAD:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        self._has_headers = False
        self._expect_request()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._has_headers = True
        self._head = 0

    def on_message_complete(self) -> None:
        self._request_is_there()
        super().on_message_complete()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.request_timeout, self._too_late)

    def _request_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._has_headers and not self.cycle.response_started:
            self._refuse(_TIMEOUT)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the parser's words are for logs
        self._refuse(_BAD_REQUEST)
        self.transport.close()

    def _refuse(self, status: int) -> None:
        answer = problem(HTTP_PROBLEMS[status], headers={"Connection": "close"})
        fields = b"".join(b"%s: %s\r\n" % field for field in answer.raw_headers)
        self.transport.write(STATUS_LINE[status] + fields + b"\r\n" + bytes(answer.body))


def bounded(settings: Settings) -> type[asyncio.Protocol]:
    """Return the protocol with the limits that these settings give."""

    class Bounded(BoundedProtocol):
        request_timeout = settings.request_timeout
        max_connections = settings.max_connections

    return Bounded
