"""What happened in a simulation, and the figures of a report.

Batches take requests in order, so that the requests of a batch, and of a chunk of exact
certificates, are a range of indexes. A range stores one time for all its requests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.domain.jobs import JobKind
from benchmarks.renewal.arrivals import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from benchmarks.renewal.arrivals import Times

#: Waits and reserves below this number of seconds are rounding errors.
_EPSILON: Final = 1e-3


class History:
    """Batches, renewals and exact certificates of a simulation, by true time."""

    def __init__(self, created: Times, exact_seconds: float) -> None:
        self.created = created
        self.busy = dict.fromkeys((JobKind.FORGET, JobKind.RENEW), 0.0)
        self.results: Counter[str] = Counter()
        self.preemptions_in_a_row = 0
        self._exact_seconds = exact_seconds
        self._in_weights = np.ones(len(created), bool)
        # Per batch: its size, the wait for renewals, the completion, whether inconclusive.
        self._sizes, self._waits = array("q"), array("d")
        self._completed_at, self._inconclusive = array("d"), array("b")
        # Per chunk of exact certificates: the index after its last request, and its time.
        self._exact_ends, self._exact_at = array("q"), array("d")
        # Per renewal, also those that failed or were interrupted.
        self._starts, self._ends, self._seconds = array("d"), array("d"), array("d")
        self._completed = 0
        self._preempted = 0
        self._blocked = 0.0
        self._end = 0.0

    # What happens

    def batch_started(self, size: int, due_at: float, now: float) -> None:
        """Record a batch, and for how long renewals delayed the batch."""
        self._sizes.append(size)
        self._waits.append(self._renewing_until(now) - self._renewing_until(due_at))

    def batch_completed(
        self, end: int, now: float, in_weights: npt.NDArray[np.bool_], *, is_inconclusive: bool
    ) -> None:
        """Complete the requests before index `end`; those not `in_weights` are exact."""
        self._in_weights[self._completed : end] = in_weights
        self._completed = end
        self._completed_at.append(now)
        self._inconclusive.append(is_inconclusive)

    def debt(self, chunk: int) -> Iterator[tuple[int, int]]:
        """Yield (end index, approximate requests) of each chunk of requests to make exact."""
        for start in range(self._exact_end, self._completed, chunk):
            end = min(start + chunk, self._completed)
            yield end, int(self._in_weights[start:end].sum())

    def certified(self, end: int, now: float) -> None:
        """Make the completed requests before index `end` exact."""
        self._exact_ends.append(end)
        self._exact_at.append(now)

    def renewal_ended(self, started: float, now: float, due_at: float, result: str) -> None:
        """Record a renewal, and for how long a batch was due meanwhile."""
        self.results[result] += 1
        self._preempted = self._preempted + 1 if result == "preempted" else 0
        self.preemptions_in_a_row = max(self.preemptions_in_a_row, self._preempted)
        self._blocked += max(now - max(started, due_at), 0.0)
        total = self._seconds[-1] if self._seconds else 0.0
        self._starts.append(started)
        self._ends.append(now)
        self._seconds.append(total + now - started)

    def close(self, end: float) -> None:
        """End the simulation at this time."""
        self._end = end

    @property
    def _exact_end(self) -> int:
        return self._exact_ends[-1] if self._exact_ends else 0

    def _renewing_until(self, time: float) -> float:
        """Return the seconds of renewals before `time`."""
        index = bisect_left(self._starts, time)
        if index == 0:
            return 0.0
        return self._seconds[index - 1] - max(self._ends[index - 1] - time, 0.0)

    # Figures

    def figures(self) -> dict[str, Any]:
        """Return the figures of the report, with times in seconds."""
        completed_at = self._per_request(self._completed_at)
        exact_at, due_at = self._exact_times(completed_at)
        created = self.created[: self._completed]
        is_exact = np.isfinite(exact_at)
        slack = due_at - np.where(is_exact, exact_at, self._end)
        # Requests without an exact certificate are missed if their deadline is over.
        missed = int((slack < -_EPSILON).sum())
        missed += int((self.created[self._completed :] + self._exact_seconds < self._end).sum())
        busy = sum(self.busy.values())
        return {
            "requests": len(self.created),
            "completed": self._completed,
            "exact": int(is_exact.sum()),
            "queue_at_end": len(self.created) - self._completed,
            "batches": len(self._completed_at),
            "renewals": self.results["renewed"],
            "preemptions": self.results["preempted"],
            "preemptions_in_a_row": self.preemptions_in_a_row,
            "failed_renewals": self.results["failed"],
            "forget_hours": self.busy[JobKind.FORGET] / HOUR,
            "renewal_hours": self.busy[JobKind.RENEW] / HOUR,
            "utilization": busy / self._end,
            "to_completed": _spread(completed_at - created),
            "to_exact": _spread((exact_at - created)[is_exact]),
            "least_slack": float(slack[is_exact].min()) if is_exact.any() else None,
            "missed_deadlines": missed,
            "waited_for_renewal": self._waiting(),
        }

    def _per_request(self, values: array[float] | array[int]) -> Times:
        """Return the value of its batch for each completed request."""
        sizes = np.asarray(self._sizes[: len(values)])
        return np.repeat(np.asarray(values, np.float64), sizes)

    def _exact_times(self, completed_at: Times) -> tuple[Times, Times]:
        """Return when each completed request became exact, infinite if not, and its deadline."""
        exact_at = np.full(self._completed, np.inf)
        ends = np.asarray(self._exact_ends, np.int64)
        # The chunk of a request is the first that ends after the request.
        chunks = np.searchsorted(ends, np.arange(self._exact_end), side="right")
        exact_at[: self._exact_end] = np.asarray(self._exact_at)[chunks]
        exact_at = np.where(self._in_weights[: self._completed], exact_at, completed_at)
        due_at = self.created[: self._completed] + self._exact_seconds
        halved = completed_at + np.maximum(due_at - completed_at, 0.0) / 2.0
        return exact_at, np.where(self._per_request(self._inconclusive) > 0, halved, due_at)

    def _waiting(self) -> dict[str, Any]:
        """Return how many requests renewals delayed, for how long, and in how much of the time."""
        waits = np.repeat(np.asarray(self._waits), np.asarray(self._sizes, np.int64))
        delayed = waits[waits > _EPSILON]
        return {
            "share_of_requests": len(delayed) / max(len(waits), 1),
            "share_of_time": self._blocked / self._end,
            **_spread(delayed),
        }


def _spread(values: Times) -> dict[str, float | None]:
    if len(values) == 0:
        return dict.fromkeys(("median", "p95", "latest"))
    median, p95 = np.percentile(values, (50, 95))
    return {"median": float(median), "p95": float(p95), "latest": float(values.max())}
