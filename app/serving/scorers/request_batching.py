"""Batch the scoring requests of concurrent threads into joint forward passes.

A batch takes one row of each waiting request, up to a budget of tokens. A new request joins the
next batch, and a finished request leaves. The waiting threads run the batches themselves, so that
a single request runs on its own thread without a handover to another thread.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from app.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from models.inference.shared_prefix import Reader

T = TypeVar("T")


class _PendingRequest:
    """The rows of a request that are still to be scored, and the logits of its scored rows."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = deque(rows)
        self.logits: list[torch.Tensor] = []
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.error is not None or not self.rows

    @property
    def width(self) -> int:
        """Return the number of tokens in the next row."""
        width: int = self.rows[0].width
        return width


class RequestBatcher:
    """The batches of one model."""

    def __init__(self, *, max_tokens: int, max_concurrent: int) -> None:
        """Run at most `max_concurrent` batches at once, each of at most `max_tokens` tokens.

        Tokens include padding. A longer row forms a batch of its own.
        """
        self._max_tokens = max_tokens
        self._max_concurrent = max_concurrent
        self._free = max_concurrent
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        #: `run_alone` waits on a condition of its own, with one notification per finished batch.
        #: On `_changed`, every finished batch would wake all of these threads for a single place.
        self._alone_turn = threading.Condition(lock)
        self._waiting: deque[_PendingRequest] = deque()
        self._is_closed = False

    def run_alone(self, work: Callable[[], T]) -> T:
        """Run work in place of a batch and return its result; raises UnavailableError if closed."""
        with self._alone_turn:
            self._alone_turn.wait_for(lambda: self._free or self._is_closed)
            self._begin_batch()
        with self._ending_batch():
            return work()

    def score(self, reader: Reader, requests: Sequence[Sequence[Any]]) -> list[torch.Tensor]:
        """Return the [N, 2] logits of each request's rows; raises UnavailableError if closed.

        Several requests are batched as if each came from a thread of its own.
        """
        pending = [_PendingRequest(rows) for rows in requests]
        with self._changed:
            self._waiting.extend(pending)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: _are_done(pending) or self._is_closed or (self._free and self._waiting)
                )
                if _are_done(pending):
                    break
                self._begin_batch()
                batch = self._take_batch()
            with self._ending_batch(batch):
                _run_batch(reader, batch)
        for request in pending:
            if request.error is not None:
                raise request.error
        return [torch.cat(request.logits) for request in pending]

    def close(self) -> bool:
        """Fail all waiting requests, refuse further ones, and return whether no batch runs."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
            self._alone_turn.notify_all()
            return self._free == self._max_concurrent

    def _begin_batch(self) -> None:
        if self._is_closed:
            raise UnavailableError("This release is being replaced. Try again shortly.")
        self._free -= 1

    @contextmanager
    def _ending_batch(self, batch: Sequence[_PendingRequest] = ()) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._waiting.extend(request for request in batch if not request.is_done)
                self._changed.notify_all()
                self._alone_turn.notify()

    def _take_batch(self) -> list[_PendingRequest]:
        """Remove and return the longest-waiting requests whose next rows fit into one batch."""
        batch = [self._waiting.popleft()]
        width = batch[0].width
        while self._waiting:
            width = max(width, self._waiting[0].width)
            if width * (len(batch) + 1) > self._max_tokens:
                break
            batch.append(self._waiting.popleft())
        return batch


def _are_done(pending: Sequence[_PendingRequest]) -> bool:
    return all(request.is_done for request in pending)


def _run_batch(reader: Reader, batch: Sequence[_PendingRequest]) -> None:
    """Score one row of each request.

    If the batch fails, each request is scored separately, so that only the faulty request fails.
    """
    try:
        batch_logits = reader.answer([request.rows[0] for request in batch])
    except Exception as error:  # noqa: BLE001 - raised again on the request's own thread
        if len(batch) > 1:
            for request in batch:
                _run_batch(reader, [request])
        else:
            batch[0].error = error
        return
    for request, logits in zip(batch, batch_logits, strict=True):
        # The order matters: once the last row is removed, the request counts as done, and its
        # thread may read the logits without waiting for this thread.
        request.logits.append(logits)
        request.rows.popleft()
