"""Follow deletion requests for clients that wait: one reader per process for all of them.

An event is the state of a request at the time of a read, and not a history: states between two
reads, LETHE_POLL_SECONDS apart, are not reported.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.request import parse_http_list

import structlog

from app.api.schemas.forget import ForgetAnswer
from app.domain.requests import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory

_log = structlog.get_logger(__name__)

#: The longest wait for one answer. Proxies commonly end a call after 60 seconds.
MAX_WAIT_SECONDS: Final = 55.0
#: Digits of the longest number of seconds that is read; more digits mean the longest wait.
_MAX_DIGITS: Final = 9
#: Without a caller's action, these statuses do not change.
_SETTLED: Final = frozenset(
    {
        RequestStatus.COMPLETED,
        RequestStatus.CANCELLED,
        RequestStatus.ON_HOLD,
        RequestStatus.DEAD,
    }
)


def parse_wait(lines: Sequence[str]) -> float | None:
    """Return the seconds of the preference `wait` in the lines of the header Prefer (RFC 7240).

    The first `wait` counts. The result is at most MAX_WAIT_SECONDS, and None without a valid wait.
    """
    for preference in parse_http_list(",".join(lines)):
        name, _, rest = preference.partition("=")
        if name.strip().lower() == "wait":
            digits = rest.partition(";")[0].strip().strip('"')
            if not (digits.isascii() and digits.isdecimal()):
                return None
            if len(digits) > _MAX_DIGITS:
                return MAX_WAIT_SECONDS
            return min(float(digits), MAX_WAIT_SECONDS) or None
    return None


def is_settled(answer: ForgetAnswer) -> bool:
    """Return whether the status stays as it is unless a caller changes it."""
    return answer.status in _SETTLED


def has_ended(answer: ForgetAnswer) -> bool:
    """Return whether the request is cancelled, or completed with all that was promised."""
    if answer.status == RequestStatus.COMPLETED:
        return answer.exact_due_at is None or answer.exact_at is not None
    return answer.status == RequestStatus.CANCELLED


@dataclass(eq=False, slots=True)
class _Waiter:
    """A client that knows one state of a request; `newer` gets another state, or None."""

    known: ForgetAnswer
    newer: asyncio.Future[ForgetAnswer | None]


class Following:
    """Reads the followed requests while clients follow. Use it in the event loop's thread."""

    def __init__(self, settings: Settings, uow: UnitOfWorkFactory) -> None:
        """Allow half of the connections to follow, so that others still get answers."""
        self._uow = uow
        self._mode = settings.exact
        self._interval = settings.poll_seconds
        self._free = max(1, settings.max_connections // 2)
        self._waiters: set[_Waiter] = set()
        self._reader: asyncio.Task[None] | None = None
        #: Whether the gateway is stopping.
        self.is_stopped = False

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Occupy a place for a client; the value is False if there is none."""
        if self._free == 0:
            yield False
            return
        self._free -= 1
        try:
            yield True
        finally:
            self._free += 1

    async def until_settled(self, answer: ForgetAnswer, seconds: float) -> ForgetAnswer:
        """Return the request's state when it is settled, or the state after `seconds`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not is_settled(answer) and (left := deadline - loop.time()) > 0:
            newer = await self.changed(answer, left)
            if newer is None:
                break
            answer = newer
        return answer

    async def changed(self, known: ForgetAnswer, seconds: float) -> ForgetAnswer | None:
        """Return the next state that differs from `known`, or `known` after `seconds`.

        None: the request does not exist any more, or the process stops.
        """
        if self.is_stopped:
            return None
        waiter = _Waiter(known, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_repeatedly())
        try:
            return await asyncio.wait_for(waiter.newer, seconds)
        except TimeoutError:
            return known
        finally:
            self._waiters.discard(waiter)

    def stop(self) -> None:
        """End all waits, and every later one at once."""
        self.is_stopped = True
        for waiter in self._waiters:
            _set(waiter, None)
        if self._reader is not None:
            self._reader.cancel()

    async def _read_repeatedly(self) -> None:
        """Read the requests until no client waits, and hand out the states that changed."""
        try:
            while self._waiters:
                await asyncio.sleep(self._interval)
                # A client that starts to wait during the read may know a newer state.
                waiters = tuple(self._waiters)
                ids = {waiter.known.id for waiter in waiters}
                try:
                    states = await asyncio.to_thread(self._read, ids)
                except Exception as error:  # noqa: BLE001 - the next read may succeed
                    _log.warning("followed_requests_not_read", error=type(error).__name__)
                    continue
                for waiter in waiters:
                    state = states.get(waiter.known.id)
                    if state != waiter.known:
                        _set(waiter, state)
        finally:
            self._reader = None

    def _read(self, ids: Collection[str]) -> dict[str, ForgetAnswer]:
        if not ids:
            return {}
        with self._uow(write=False) as uow:
            requests = uow.requests.with_ids(ids)
            return {answer.id: answer for answer in ForgetAnswer.read(uow, requests, self._mode)}


def _set(waiter: _Waiter, state: ForgetAnswer | None) -> None:
    if not waiter.newer.done():
        waiter.newer.set_result(state)
