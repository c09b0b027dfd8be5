"""Responses of clients that follow a deletion request: an answer that waits, and events."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, Header, Request, Response, status
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from app.api.following import Following, has_ended, is_settled, parse_wait
from app.api.middleware import add_waited
from app.domain.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import Receive, Scope, Send

    from app.api.schemas.forget import ForgetAnswer

#: Proxies close connections without traffic, often after 60 seconds.
_KEEPALIVE_SECONDS: Final = 15.0
#: Seconds after which a client without a place may try again.
_RETRY_AFTER: Final = 10
_JSON: Final = "application/json"
_MAX_HEADER_LENGTH: Final = 256


def _wait(
    request: Request,
    _documented: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=SECONDS` (RFC 7240): answer when the deletion is completed, "
            "cancelled, on hold or dead, at the latest after this time, which is at most 55.",
        ),
    ] = None,
) -> float | None:
    return parse_wait(request.headers.getlist("prefer"))


#: The seconds for which the caller prefers to wait for the end of a deletion; None: not at all.
WaitSeconds = Annotated[float | None, Depends(_wait)]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=_MAX_HEADER_LENGTH,
        description="The id of the last event of an earlier stream.",
    ),
]


def answered_after(
    following: Following,
    answer: ForgetAnswer,
    seconds: float | None,
    response: Response | None = None,
) -> ForgetAnswer | Response:
    """Return the answer, or a response that waits for the end of the deletion.

    `response` has the status and the headers that the route has set.
    """
    if seconds is None or is_settled(answer):
        return answer
    return _WaitingResponse(following, answer, seconds, response)


class _WaitingResponse(Response):
    """The state of a request when it is settled, or when the time is over."""

    def __init__(
        self,
        following: Following,
        answer: ForgetAnswer,
        seconds: float,
        response: Response | None,
    ) -> None:
        self._following = following
        self._answer = answer
        self._seconds = seconds
        given = response.status_code if response is not None else status.HTTP_200_OK
        self._given_headers = dict(response.headers) if response is not None else {}
        super().__init__(status_code=given or status.HTTP_202_ACCEPTED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, unless too many clients follow already, and send the answer."""
        # By then the request is committed. The replica learns of it now, and not after the wait.
        if self.background is not None:
            await self.background()
        headers = self._given_headers
        answer = self._answer
        with self._following.place() as has_place, _waiting(scope):
            if has_place:
                headers = {**headers, "Preference-Applied": f"wait={self._seconds:.0f}"}
                answer = await self._waited(receive)
        code = status.HTTP_200_OK if answer.completed_at is not None else self.status_code
        final = Response(answer.model_dump_json(), code, headers, _JSON)
        await final(scope, receive, send)

    async def _waited(self, receive: Receive) -> ForgetAnswer:
        """Return the state after the wait, which ends early when the client disconnects."""
        waits = {
            asyncio.create_task(self._following.until_settled(self._answer, self._seconds)),
            asyncio.create_task(self._disconnected(receive)),
        }
        try:
            ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return ended.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def _disconnected(self, receive: Receive) -> ForgetAnswer:
        while (await receive())["type"] != "http.disconnect":
            pass
        return self._answer


def event_stream(following: Following, answer: ForgetAnswer, last_event_id: str | None) -> Response:
    """Return the states of a request as server-sent events, from this state on.

    `204`, after which browsers do not connect again: the request has ended, and the client has seen
    the last event.
    """
    if has_ended(answer) and _event_id(answer) == last_event_id:
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    return _EventStream(following, answer, last_event_id)


class _EventStream(StreamingResponse):
    """A stream that ends with its request, or when the process stops."""

    def __init__(
        self, following: Following, answer: ForgetAnswer, last_event_id: str | None
    ) -> None:
        self._following = following
        # nginx would keep back the events until its buffer is full.
        headers = {"X-Accel-Buffering": "no"}
        content = _events(following, answer, last_event_id)
        super().__init__(content, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._following.place() as has_place, _waiting(scope):
            if not has_place:
                raise OverloadedError(retry_after=_RETRY_AFTER)
            await super().__call__(scope, receive, send)


async def _events(
    following: Following, answer: ForgetAnswer, last_event_id: str | None
) -> AsyncIterator[bytes]:
    while True:
        event_id = _event_id(answer)
        if event_id != last_event_id:
            yield format_sse_event(data_str=answer.model_dump_json(), event="request", id=event_id)
            last_event_id = event_id
        if has_ended(answer):
            return
        newer = await following.changed(answer, _KEEPALIVE_SECONDS)
        if newer is None:
            return
        if newer == answer:
            yield KEEPALIVE_COMMENT
        answer = newer


def _event_id(answer: ForgetAnswer) -> str:
    """Return an id that two equal states share."""
    return sha256(answer.model_dump_json().encode()).hexdigest()[:16]


@contextmanager
def _waiting(scope: Scope) -> Iterator[None]:
    """Exclude the time of the block from the measured time of the answer."""
    started = time.perf_counter()
    try:
        yield
    finally:
        add_waited(scope, time.perf_counter() - started)
