"""Middleware for every request: retry, body limit, metrics, access log and safe headers.

The log and the metrics contain route templates and never paths, because a path contains a user id.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from app.api.problems import HTTP_PROBLEMS, LEDGER_AHEAD, problem
from app.tracebacks import error_location

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.api.metrics import Metrics

_log = structlog.get_logger("lethe.access")
_READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_TOO_LARGE: Final = 413
#: Key of the seconds for which an answer waited for something else, in the scope of a request.
_WAITED: Final = "lethe.waited"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class BodyLimit:
    """Answers 413 for a body above the limit, with or without a Content-Length header."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "0")
        if not content_length.isdecimal() or int(content_length) > self._max:
            status = _TOO_LARGE if content_length.isdecimal() else 400
            await problem(HTTP_PROBLEMS[status])(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max:
                # FastAPI passes HTTPException to the handler of problems.
                raise HTTPException(_TOO_LARGE)
            return message

        await self._app(scope, limited_receive, send)


class LedgerRetry:
    """Repeats a request once if entries of the ledger that the database lacked stopped it.

    The unit of work was rolled back, and has reconciled the database with the ledger.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING_METHODS:
            await self._app(scope, receive, send)
            return
        received: list[Message] = []
        first_scope = dict(scope)  # Routing changes the scope, from which others read the route.

        async def recording_receive() -> Message:
            message = await receive()
            received.append(message)
            return message

        async def holding_send(message: Message) -> None:
            if LEDGER_AHEAD not in scope:
                await send(message)

        await self._app(scope, recording_receive, holding_send)
        if LEDGER_AHEAD not in scope:
            return
        messages = iter(received)

        async def repeating_receive() -> Message:
            return next(messages, None) or await receive()

        scope.clear()
        scope.update(first_scope)
        await self._app(scope, repeating_receive, send)


class Observer:
    """Measures and logs every request, and answers 500 for unhandled exceptions."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def observing_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, observing_send)
        except Exception as error:  # noqa: BLE001 - the last resort; logged, and answered as a 500
            _log.error("request.failed", route=_template(scope), **error_location(error))
            if status == 0:
                await problem(HTTP_PROBLEMS[500])(scope, receive, observing_send)
        finally:
            seconds = time.perf_counter() - started - scope.get(_WAITED, 0.0)
            route = _template(scope)
            self._metrics.request(scope["method"], route, status, seconds)
            _log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                milliseconds=round(seconds * 1000, 2),
            )


def add_waited(scope: Scope, seconds: float) -> None:
    """Exclude the time for which a client chose to wait from the time of the answer."""
    scope[_WAITED] = scope.get(_WAITED, 0.0) + seconds


def _template(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))
