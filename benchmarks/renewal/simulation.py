"""Simulate one worker that carries out deletions and renewals, as a discrete-event simulation.

`app.domain.renewal.decide` makes every decision, from a state that this module computes with the
simulated clock. One job runs at a time. A worker outage interrupts the job that runs. A job that
had not published its release starts again after the outage, a later stage continues.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import simpy

from app.domain import renewal
from app.domain.jobs import JobKind
from app.domain.renewal import Action, RenewalState
from app.services import renewals
from app.services.retries import retry_seconds
from benchmarks.renewal.arrivals import DAY, BatchQueue, Clock
from benchmarks.renewal.history import History

if TYPE_CHECKING:
    from collections.abc import Generator

    from app.settings import Settings
    from benchmarks.renewal.arrivals import Demand
    from benchmarks.renewal.cost_model import Costs

    Steps = Generator[simpy.Event, None, bool]

#: Certificates of a renewal that one transaction issues.
CHUNK: Final = 500
#: The least time between two decisions. Sums of floating point may fall just short of a time.
_RESOLUTION: Final = 1e-3
#: The number of trainings whose largest duration is used for planning.
_PLANNED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens in the simulated period, and with which settings."""

    demand: Demand
    costs: Costs
    settings: Settings
    #: Number of users. As many users join as leave.
    users: float
    #: Probabilities that a renewal fails its quality check, and that an audit is inconclusive.
    failure_share: float = 0.0
    inconclusive_share: float = 0.0
    #: Start and seconds of each outage of the worker.
    outages: tuple[tuple[float, float], ...] = ()
    clock: Clock = field(default_factory=Clock)
    seed: int = 0
    #: The longest time between two decisions, which changes of the clock need.
    tick: float = 600.0


def simulate(scenario: Scenario) -> History:
    """Simulate the period and return what happened."""
    environment = simpy.Environment()
    simulation = _Simulation(scenario, environment)
    environment.run(until=scenario.demand.days * DAY)
    simulation.stop()
    return simulation.history


class _Simulation:
    """The state of the installation, and the processes that change the state."""

    def __init__(self, scenario: Scenario, environment: simpy.Environment) -> None:
        arrivals, self._chance = map(
            np.random.default_rng, np.random.SeedSequence(scenario.seed).spawn(2)
        )
        settings = scenario.settings
        self._scenario, self._environment = scenario, environment
        self._costs, self._policy = scenario.costs, renewals.policy(settings)
        self._queue = BatchQueue(
            scenario.demand.draw(arrivals),
            scenario.clock,
            size=settings.batch_size,
            window=settings.cancel_window,
            patience=settings.batch_seconds,
        )
        self.history = History(self._queue.created, settings.exact_days * DAY)
        self.renewal_started: float | None = None
        self._approximate = 0
        self._oldest_completed_at: float | None = None
        self._earliest_due_at = math.inf
        self._trained_at = 0.0
        self._preemptions = 0
        self._failures = 0
        self._retry_at: float | None = None
        self._trainings = deque([self._training_seconds()], maxlen=_PLANNED)
        self._planned = self._trainings[0]
        self._seconds_of_size: dict[int, float] = {}
        self._down_from = self._down_until = self._worked = 0.0
        self._working: tuple[JobKind, float] | None = None
        self._worker = environment.process(self._work())
        environment.process(self._break_down())

    @property
    def _now(self) -> float:
        return float(self._environment.now)

    # Decisions

    def _state(self) -> RenewalState:
        """Return the facts for a decision, with times by the database's clock."""
        now, clock = self._now, self._scenario.clock
        due_at = self._queue.due_at
        is_due = due_at <= now
        started = self.renewal_started
        return RenewalState(
            now=clock.read(now),
            approximate=self._approximate,
            oldest_completed_at=self._oldest_completed_at,
            earliest_due_at=None if self._approximate == 0 else self._earliest_due_at,
            training_seconds=self._planned,
            waiting=self._queue.waiting(now),
            batch_due_at=clock.read(due_at) if is_due else None,
            batch_seconds=self._batch_seconds(self._queue.next_size(now)) if is_due else 0.0,
            running_since=None if started is None else clock.read(started),
            forgotten_share=self._approximate / self._scenario.users,
            preemptions=self._preemptions,
            retry_at=self._retry_at,
        )

    def _batch_seconds(self, size: int) -> float:
        if size not in self._seconds_of_size:
            self._seconds_of_size[size] = self._costs.batch_seconds(size)
        return self._seconds_of_size[size]

    def _next_decision(self, state: RenewalState) -> float:
        """Return the true time of the next decision: a batch is due, a renewal starts, a tick."""
        now = self._now
        times = [now + self._scenario.tick]
        due_at = self._queue.due_at
        if due_at > now:
            times.append(due_at)
        start_at = renewal.plan(state, self._policy).start_at
        if start_at is not None and start_at > state.now:
            times.append(now + start_at - state.now)
        return max(min(times), now + _RESOLUTION)

    # Processes

    def _work(self) -> Generator[simpy.Event, None, None]:
        """Decide and work, until the period ends."""
        while True:
            state = self._state()
            action = renewal.decide(state, self._policy)
            if action is Action.CLOSE_BATCH:
                yield from self._forget()
            elif action is Action.START_RENEWAL:
                yield from self._renew()
            else:
                yield from self._wait(self._next_decision(state) - self._now)

    def _break_down(self) -> Generator[simpy.Event, None, None]:
        """Interrupt the worker at the start of each outage."""
        for start, seconds in self._scenario.outages:
            yield self._environment.timeout(max(start - self._now, 0.0))
            self._down_from, self._down_until = self._now, start + seconds
            self._worker.interrupt()

    def _wait(self, seconds: float) -> Steps:
        """Let time pass; return False if an outage ended the wait, which lasts until its end."""
        is_complete = True
        timeout = self._environment.timeout(seconds)
        while True:
            try:
                yield timeout
            except simpy.Interrupt:
                is_complete = False
                timeout = self._environment.timeout(self._down_until - self._now)
            else:
                return is_complete

    def _last(
        self, kind: JobKind, seconds: float, *, resumes: bool
    ) -> Generator[simpy.Event, None, None]:
        """Work for `seconds`. After an outage the work continues if it `resumes`, or repeats."""
        left = seconds
        while not (yield from self._work_on(kind, left)):
            left = left - self._worked if resumes else seconds

    def _work_on(self, kind: JobKind, seconds: float) -> Steps:
        """Work for `seconds`; return False after an outage, whose end this call waits for."""
        self._working = kind, self._now
        is_complete = yield from self._wait(seconds)
        self._worked = seconds if is_complete else self._down_from - self._working[1]
        self._working = None
        self.history.busy[kind] += self._worked
        return is_complete

    def stop(self) -> None:
        """Count the work that the end of the period interrupts."""
        if self._working is not None:
            kind, started = self._working
            end = self._down_from if self._down_until > self._now else self._now
            self.history.busy[kind] += end - started
        self.history.close(self._now)

    def _forget(self) -> Generator[simpy.Event, None, None]:
        """Carry out the next batch."""
        queue, now = self._queue, self._now
        due_at, size = queue.due_at, queue.next_size(now)
        self.history.batch_started(size, due_at, now)
        queue.take(size)
        yield from self._last(JobKind.FORGET, self._batch_seconds(size), resumes=False)
        self._complete(queue.taken - size, queue.taken)

    def _complete(self, first: int, end: int) -> None:
        """Complete the requests first to end - 1. Users who joined lately are in no weights."""
        now, scenario = self._now, self._scenario
        joined = scenario.demand.per_day / DAY * (now - self._trained_at) / scenario.users
        in_weights = self._chance.random(end - first) >= joined
        is_inconclusive = bool(self._chance.random() < scenario.inconclusive_share)
        self.history.batch_completed(end, now, in_weights, is_inconclusive=is_inconclusive)
        approximate = int(np.count_nonzero(in_weights))
        if approximate == 0:
            return
        read = scenario.clock.read
        self._approximate += approximate
        if self._oldest_completed_at is None:
            self._oldest_completed_at = read(now)
        if scenario.clock.changes:
            oldest = min(map(read, self._queue.created[first:end][in_weights]))
        else:
            oldest = float(self._queue.created[first + int(in_weights.argmax())])
        due_at = oldest + scenario.settings.exact_days * DAY
        if is_inconclusive:
            due_at = min(due_at, read(now) + max(due_at - read(now), 0.0) / 2.0)
        self._earliest_due_at = min(self._earliest_due_at, due_at)

    def _renew(self) -> Generator[simpy.Event, None, None]:
        """Train from scratch, and make the approximate requests exact, unless interrupted."""
        self.renewal_started = self._now
        seconds = self._training_seconds()
        snapshot_at = yield from self._train(seconds)
        if snapshot_at is None:
            self._preemptions += 1
            self._end_renewal("preempted")
            yield from self._forget()  # The same transaction closes the batch.
            return
        if self._chance.random() < self._scenario.failure_share:
            self._failures += 1
            delay = retry_seconds(self._scenario.settings.retry_delay, self._failures)
            delay = max(delay, renewals.MIN_RETRY_SECONDS)
            self._retry_at = self._scenario.clock.read(self._now) + delay
            self._end_renewal("failed")
            return
        yield from self._last(JobKind.RENEW, self._costs.roll_out, resumes=True)
        self._trainings.append(seconds + self._costs.roll_out)
        self._planned = max(self._trainings)
        yield from self._last(JobKind.RENEW, self._costs.shred, resumes=True)
        yield from self._certify()
        self._trained_at = snapshot_at
        self._end_renewal("renewed")

    def _train(self, seconds: float) -> Generator[simpy.Event, None, float | None]:
        """Train; return the time of the snapshot, or None if a batch interrupted the training."""
        snapshot_at, left = self._now, seconds
        while left > 0.0:
            state = self._state()
            if renewal.decide(state, self._policy) is Action.PREEMPT:
                return None
            pause = min(left, self._next_decision(state) - self._now)
            if (yield from self._work_on(JobKind.RENEW, pause)):
                left -= pause
            else:
                snapshot_at, left = self._now, seconds
        return snapshot_at

    def _certify(self) -> Generator[simpy.Event, None, None]:
        """Issue the exact certificates in chunks, and clear the debt."""
        for end, count in self.history.debt(CHUNK):
            yield from self._last(JobKind.RENEW, count * self._costs.certificate, resumes=True)
            self.history.certified(end, self._now)
        self._approximate, self._oldest_completed_at = 0, None
        self._earliest_due_at = math.inf
        self._preemptions = self._failures = 0
        self._retry_at = None

    def _end_renewal(self, result: str) -> None:
        if self.renewal_started is not None:
            due_at = self._queue.due_at
            self.history.renewal_ended(self.renewal_started, self._now, due_at, result)
        self.renewal_started = None

    def _training_seconds(self) -> float:
        """Draw the duration of one of the measured trainings."""
        trainings = self._costs.trainings
        return trainings[int(self._chance.integers(len(trainings)))]
