"""Scores the requests of several people jointly, step by step, on the threads of who asks.

A step takes one row of each request that waits, up to a budget of tokens. A request that comes in
joins the next step, and one that is done leaves; whoever waits runs steps, so that a request alone
goes through on its own thread without any handing over. Knows nothing of releases or people.
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


class _Job:
    """One request: the rows that it still has to go through, and what came of the others."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = deque(rows)
        self.found: list[torch.Tensor] = []
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.error is not None or not self.rows

    @property
    def width(self) -> int:
        """Return the tokens of the next row."""
        width: int = self.rows[0].width
        return width


class RequestBatcher:
    """The steps of one model."""

    def __init__(self, *, tokens: int, at_once: int) -> None:
        """Take at most so many tokens into a step, padding counted, and run so many steps at once.

        A single row that is longer goes alone.
        """
        self._tokens = tokens
        self._free = self._at_once = at_once
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        #: Those who wait to work alone: one of them at a time has to know that it is its turn.
        self._turn = threading.Condition(lock)
        self._waiting: deque[_Job] = deque()
        self._closed = False

    def alone(self, work: Callable[[], T]) -> T:
        """Do work that nobody can share, as a step of its own; raises UnavailableError."""
        with self._turn:
            self._turn.wait_for(lambda: self._free or self._closed)
            self._begin()
        with self._ending():
            return work()

    def score(self, reader: Reader, requests: Sequence[Sequence[Any]]) -> list[torch.Tensor]:
        """Return the [N, 2] logits of each request's rows; raises UnavailableError once closed.

        Several requests take part in steps as though each had come on a thread of its own.
        """
        jobs = [_Job(rows) for rows in requests]
        with self._changed:
            self._waiting.extend(jobs)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: _over(jobs) or self._closed or (self._free and self._waiting)
                )
                if _over(jobs):
                    break
                self._begin()
                batch = self._take()
            with self._ending(batch):
                _step(reader, batch)
        for job in jobs:
            if job.error is not None:
                raise job.error
        return [torch.cat(job.found) for job in jobs]

    def close(self) -> bool:
        """Take no more, and send those away who wait; say whether no step is under way."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
            self._turn.notify_all()
            return self._free == self._at_once

    def _begin(self) -> None:
        if self._closed:
            raise UnavailableError("This release is being replaced. Try again shortly.")
        self._free -= 1

    @contextmanager
    def _ending(self, batch: Sequence[_Job] = ()) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._waiting.extend(each for each in batch if not each.over)
                self._changed.notify_all()
                self._turn.notify()

    def _take(self) -> list[_Job]:
        """Return those who waited longest, as many as fit into a step side by side."""
        batch = [self._waiting.popleft()]
        width = batch[0].width
        while self._waiting:
            width = max(width, self._waiting[0].width)
            if width * (len(batch) + 1) > self._tokens:
                break
            batch.append(self._waiting.popleft())
        return batch


def _over(jobs: Sequence[_Job]) -> bool:
    return all(job.over for job in jobs)


def _step(reader: Reader, batch: Sequence[_Job]) -> None:
    """Bring every job one row further; where that fails each goes by itself, so that one fails."""
    try:
        answers = reader.answer([job.rows[0] for job in batch])
    except Exception as error:  # noqa: BLE001 - whoever asked gets it
        if len(batch) > 1:
            for job in batch:
                _step(reader, [job])
        else:
            batch[0].error = error
        return
    for job, found in zip(batch, answers, strict=True):
        # In this order: without rows the job is over, and its thread may take what was found.
        job.found.append(found)
        job.rows.popleft()
