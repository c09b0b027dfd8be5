"""Arrivals, the simulated clock, and the batching rule against the worker's own rule."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.batches import _due_at
from app.settings import Settings
from benchmarks.renewal.arrivals import DAY, BatchQueue, Clock, Demand

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW, PATIENCE, SIZE = 60.0, 30.0, 3
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def queue(*created: float, clock: Clock | None = None) -> BatchQueue:
    return BatchQueue(
        np.array(created, float),
        clock or Clock(),
        size=SIZE,
        window=WINDOW,
        patience=PATIENCE,
    )


def ready_by_worker(created: Sequence[float], now: float) -> list[tuple[bool, datetime]]:
    """Select as `RequestRepository.ready_times` does."""
    windows = [EPOCH + timedelta(seconds=time + WINDOW) for time in sorted(created)]
    return [(False, end) for end in windows if end <= EPOCH + timedelta(seconds=now)][:SIZE]


@given(st.lists(st.integers(0, 200), max_size=8), st.integers(0, 400))
def test_batch_is_due_when_the_worker_says_so(created: list[int], now: int) -> None:
    settings = Settings(batch_size=SIZE, batch_seconds=PATIENCE)
    own = queue(*sorted(created))
    ready = ready_by_worker(created, now)

    due_at = _due_at(ready, settings)

    assert own.next_size(now) == len(ready)
    is_due = due_at is not None and due_at <= EPOCH + timedelta(seconds=now)
    assert (own.due_at <= now) == is_due
    if due_at is not None and is_due:
        assert own.due_at == (due_at - EPOCH).total_seconds()


def test_full_batch_is_due_at_its_last_cancel_window() -> None:
    own = queue(0.0, 1.0, 2.0, 500.0)

    assert own.due_at == 62.0
    own.take(3)
    assert own.due_at == 590.0
    own.take(1)
    assert own.due_at == math.inf


def test_waiting_counts_requests_in_the_cancel_window() -> None:
    own = queue(0.0, 1.0, 2.0, 500.0)

    assert [own.waiting(time) for time in (-1.0, 1.0, 500.0)] == [0, 2, 4]
    own.take(3)
    assert own.waiting(499.0) == 0


def test_many_waiting_requests_are_counted() -> None:
    own = queue(*np.linspace(0.0, 10.0, 5_000))

    assert own.waiting(20.0) == 5_000


def test_clock_set_back_prolongs_the_cancel_window() -> None:
    clock = Clock(changes=((100.0, -50.0),))
    own = queue(0.0, 90.0, 120.0, clock=clock)

    # 90 + 60 = 150 is shown at 200. The request of 120 has the time 70, whose window ends at 180.
    assert own.created.tolist() == [0.0, 120.0, 90.0]
    # Ready at 60; 60 + 30 = 90 is shown at 90.
    assert own.due_at == 90.0
    assert own.next_size(190.0) == 2
    assert own.waiting(100.0) == 2


def test_clock_shows_a_time_after_each_change() -> None:
    clock = Clock(changes=((100.0, -50.0), (200.0, 0.0)))

    assert [clock.read(time) for time in (99.0, 100.0, 199.0, 200.0)] == [99.0, 50.0, 149.0, 200.0]
    assert clock.first_time(120.0, since=90.0) == 170.0
    assert clock.first_time(180.0, since=90.0) == 200.0
    assert Clock().first_time(7.0, since=3.0) == 7.0


def test_demand_has_the_mean_a_rhythm_and_a_burst() -> None:
    demand = Demand(per_day=2_000, days=20, burst_day=7)

    times = demand.draw(np.random.default_rng(0))

    per_day = np.bincount((times // DAY).astype(int), minlength=20)
    others = np.delete(per_day, 7)
    assert per_day[7] == pytest.approx(200_000, rel=0.01)
    assert others.mean() == pytest.approx(2_000, rel=0.02)
    hours = (times[times < 7 * DAY] % DAY) // 3_600.0
    assert (hours == 15).sum() > 4 * (hours == 3).sum()
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, demand.draw(np.random.default_rng(0)))
