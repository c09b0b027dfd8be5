"""When renewals start, when deletions interrupt them, and what holds for every state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.renewal import (
    MAX_PREEMPTIONS,
    MIN_CANCEL_SECONDS,
    SAFETY_FACTOR,
    Action,
    ExactMode,
    RenewalPlan,
    RenewalPolicy,
    RenewalReason,
    RenewalState,
    decide,
    effective_mode,
    may_preempt,
    plan,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW, DAY = 1_000_000.0, 86_400.0
SOON, DEADLINE, OFF = (RenewalPolicy(mode=mode) for mode in ExactMode)
#: One approximate deletion, completed 50 seconds ago, with 30 days left for a training of 100 s.
DEBT = RenewalState(
    now=NOW,
    approximate=1,
    oldest_completed_at=NOW - 50.0,
    earliest_due_at=NOW + 30 * DAY,
    training_seconds=100.0,
)


def state(**changes: Any) -> RenewalState:
    return replace(DEBT, **changes)


@pytest.mark.parametrize(
    ("changes", "policy", "start_at", "reason"),
    [
        # As soon as the queue is empty, or the oldest deletion is four training times old.
        ({}, SOON, NOW, RenewalReason.IDLE),
        ({"waiting": 1}, SOON, NOW + 350.0, RenewalReason.AGE),
        ({"waiting": 1, "oldest_completed_at": NOW - 401}, SOON, NOW - 1, RenewalReason.AGE),
        # In time for the deadline.
        ({}, DEADLINE, NOW + 30 * DAY - 200.0, RenewalReason.DEADLINE),
        ({"earliest_due_at": NOW + 199.0}, DEADLINE, NOW - 1.0, RenewalReason.DEADLINE),
        ({"earliest_due_at": NOW + 99.0}, DEADLINE, NOW - 101.0, RenewalReason.LATE),
        ({"earliest_due_at": NOW - DAY}, SOON, NOW - DAY - 200.0, RenewalReason.LATE),
        # Too many rows are gone, the loss has drifted, or neither is recorded.
        ({"forgotten_share": 0.11}, DEADLINE, NOW, RenewalReason.DRIFT),
        ({"drift": 0.06}, DEADLINE, NOW, RenewalReason.DRIFT),
        ({"forgotten_share": None}, DEADLINE, NOW, RenewalReason.DRIFT),
        ({"has_record": False}, DEADLINE, NOW, RenewalReason.NO_RECORD),
        ({"training_seconds": None}, DEADLINE, NOW, RenewalReason.NO_RECORD),
        ({"is_restored": True}, DEADLINE, NOW, RenewalReason.RESTORED),
    ],
)
def test_each_reason_starts_a_renewal(
    changes: dict[str, Any], policy: RenewalPolicy, start_at: float, reason: RenewalReason
) -> None:
    planned = plan(state(**changes), policy)
    assert (planned.start_at, planned.reason) == (start_at, reason)


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, OFF),
        ({"earliest_due_at": NOW - DAY, "is_restored": True}, OFF),
        ({"approximate": 0, "has_record": False}, SOON),
        ({"forgotten_share": 0.1, "drift": 0.05, "earliest_due_at": None}, DEADLINE),
    ],
)
def test_no_renewal_is_planned_without_need(changes: dict[str, Any], policy: RenewalPolicy) -> None:
    assert plan(state(**changes), policy) == RenewalPlan()
    assert decide(state(**changes), policy) is Action.WAIT
    with_batch = state(**changes, batch_due_at=NOW)
    assert decide(with_batch, policy) is Action.CLOSE_BATCH


@pytest.mark.parametrize(
    ("seconds", "mode"),
    [
        (None, ExactMode.SOON),
        (600.0, ExactMode.SOON),
        (600.1, ExactMode.DEADLINE),
    ],
)
def test_default_mode_follows_the_training_time(seconds: float | None, mode: ExactMode) -> None:
    assert effective_mode(RenewalPolicy(), seconds) is mode
    assert effective_mode(OFF, seconds) is ExactMode.OFF


@pytest.mark.parametrize(
    ("due_in", "is_late"), [(250.0, False), (100.0, False), (99.0, True), (-1.0, True)]
)
def test_plan_says_that_the_deadline_is_missed(due_in: float, is_late: bool) -> None:
    planned = plan(state(earliest_due_at=NOW + due_in), SOON)
    assert planned.is_due(NOW)
    assert planned.is_late is is_late


def test_failed_renewal_waits_for_its_retry_also_when_late() -> None:
    failed = state(earliest_due_at=NOW - 1.0, retry_at=NOW + 20.0)
    assert plan(failed, SOON) == RenewalPlan(
        start_at=NOW + 20.0, reason=RenewalReason.LATE, is_late=True
    )
    assert decide(failed, SOON) is Action.WAIT
    # Meanwhile a batch may run.
    assert decide(replace(failed, batch_due_at=NOW), SOON) is Action.CLOSE_BATCH
    assert decide(replace(failed, now=NOW + 20.0), SOON) is Action.START_RENEWAL


@pytest.mark.parametrize(
    ("seconds", "due_in", "starts_in"),
    [
        (1000.0, 30 * DAY, 4000.0),
        (1.0, 30 * DAY, MIN_CANCEL_SECONDS),
        # The deadline limits the postponement, and a late renewal is not postponed.
        (1000.0, 3000.0, 2000.0),
        (1000.0, 900.0, -100.0),
    ],
)
def test_cancel_postpones_the_next_renewal_unless_late(
    seconds: float, due_in: float, starts_in: float
) -> None:
    cancelled = state(
        training_seconds=seconds, earliest_due_at=NOW + due_in, cancelled_at=NOW, waiting=0
    )
    start_at = plan(cancelled, SOON).start_at
    assert start_at is not None
    assert max(start_at, NOW) == NOW + max(starts_in, 0.0)
    assert decide(cancelled, SOON) is (Action.START_RENEWAL if starts_in <= 0 else Action.WAIT)


def test_due_batch_goes_first_only_if_the_renewal_can_start_in_time_after_it() -> None:
    batch = state(batch_due_at=NOW - 1.0, batch_seconds=50.0, waiting=1)
    assert decide(replace(batch, earliest_due_at=NOW + 251.0), DEADLINE) is Action.CLOSE_BATCH
    assert decide(replace(batch, earliest_due_at=NOW + 250.0), DEADLINE) is Action.START_RENEWAL


def test_nothing_trains_before_repeated_deletions_are_completed() -> None:
    restoring = state(is_restored=True, is_restoring=True)
    assert decide(restoring, SOON) is Action.WAIT
    assert decide(replace(restoring, batch_due_at=NOW), SOON) is Action.CLOSE_BATCH
    running = replace(restoring, batch_due_at=NOW, running_since=NOW, preemptions=MAX_PREEMPTIONS)
    assert decide(running, SOON) is Action.PREEMPT


RUNNING = state(running_since=NOW - 10.0, batch_due_at=NOW - 5.0, batch_seconds=20.0, waiting=1)


@pytest.mark.parametrize(
    ("changes", "is_allowed"),
    [
        ({}, True),
        ({"preemptions": MAX_PREEMPTIONS - 1}, True),
        ({"preemptions": MAX_PREEMPTIONS}, False),
        ({"batch_due_at": None}, False),
        ({"batch_due_at": NOW - 10.0}, False),
        ({"running_since": None}, False),
        ({"is_restored": True}, False),
        ({"earliest_due_at": NOW + 220.0}, True),
        ({"earliest_due_at": NOW + 219.0}, False),
        ({"earliest_due_at": NOW - DAY}, False),
        ({"earliest_due_at": None}, True),
    ],
)
def test_batch_interrupts_a_renewal_that_can_wait(
    changes: dict[str, Any], is_allowed: bool
) -> None:
    running = replace(RUNNING, **changes)
    assert may_preempt(running) is is_allowed
    if running.running_since is not None:
        expected = Action.PREEMPT if is_allowed else Action.WAIT
        assert decide(running, SOON) is expected


SECONDS = st.floats(0.0, 100 * DAY)
TIMES = st.floats(NOW - 100 * DAY, NOW + 100 * DAY)
MAYBE = st.none() | TIMES
POLICIES = st.builds(RenewalPolicy, mode=st.sampled_from([None, *ExactMode]))
STATES = st.builds(
    RenewalState,
    now=TIMES,
    approximate=st.integers(0, 2),
    oldest_completed_at=MAYBE,
    earliest_due_at=MAYBE,
    training_seconds=st.none() | SECONDS,
    waiting=st.integers(0, 2),
    batch_due_at=MAYBE,
    batch_seconds=SECONDS,
    running_since=MAYBE,
    forgotten_share=st.none() | st.floats(0.0, 1.0),
    drift=st.floats(-1.0, 1.0),
    has_record=st.booleans(),
    is_restored=st.booleans(),
    preemptions=st.integers(0, 3),
    retry_at=MAYBE,
    cancelled_at=MAYBE,
    is_restoring=st.booleans(),
)


def single_reasons(whole: RenewalState) -> Iterator[RenewalState]:
    """Yield the state with each of its reasons alone."""
    none = replace(
        whole,
        is_restored=False,
        has_record=True,
        forgotten_share=0.0,
        drift=0.0,
        waiting=1,
        oldest_completed_at=None,
    )
    yield none
    for name in ("is_restored", "has_record", "forgotten_share", "drift", "waiting"):
        yield replace(none, **{name: getattr(whole, name)})
    yield replace(none, oldest_completed_at=whole.oldest_completed_at)


@given(STATES, POLICIES)
def test_no_reason_is_lost_beside_another(whole: RenewalState, policy: RenewalPolicy) -> None:
    planned = plan(whole, policy)
    alone = [plan(single, policy) for single in single_reasons(whole)]
    starts = [
        each.start_at
        for each in alone
        if each.start_at is not None
        # With an empty queue, the age of the oldest deletion does not matter.
        and not (whole.waiting == 0 and each.reason is RenewalReason.AGE)
    ]
    assert planned.start_at == (min(starts) if starts else None)


@given(STATES, POLICIES)
def test_off_never_starts_and_no_debt_never_starts(
    whole: RenewalState, policy: RenewalPolicy
) -> None:
    assert decide(whole, OFF) is not Action.START_RENEWAL
    assert decide(replace(whole, approximate=0), policy) is not Action.START_RENEWAL


@given(STATES, POLICIES)
def test_renewal_is_due_two_training_times_before_the_deadline(
    whole: RenewalState, policy: RenewalPolicy
) -> None:
    whole = replace(whole, retry_at=None, cancelled_at=None, approximate=1)
    planned = plan(whole, policy)
    if whole.earliest_due_at is None or policy.mode is ExactMode.OFF:
        return
    latest = whole.earliest_due_at - SAFETY_FACTOR * (whole.training_seconds or 0.0)
    assert planned.start_at is not None
    assert planned.start_at <= latest
    if decide(whole, policy) is Action.CLOSE_BATCH and not whole.is_restoring:
        assert whole.now + whole.batch_seconds <= latest + 1e-3


@given(STATES, POLICIES)
def test_missed_deadline_starts_at_once_and_is_late(
    whole: RenewalState, policy: RenewalPolicy
) -> None:
    late = replace(
        whole,
        approximate=1,
        earliest_due_at=whole.now - 1.0,
        retry_at=None,
        running_since=None,
        is_restoring=False,
    )
    if policy.mode is ExactMode.OFF:
        return
    planned = plan(late, policy)
    assert planned.is_due(late.now)
    assert planned.is_late
    assert decide(late, policy) is Action.START_RENEWAL


@given(STATES)
def test_preemption_is_limited_and_never_costs_the_deadline(whole: RenewalState) -> None:
    if whole.is_restoring or not may_preempt(whole):
        return
    assert whole.preemptions < MAX_PREEMPTIONS
    assert whole.batch_due_at is not None
    assert whole.running_since is not None
    assert whole.batch_due_at > whole.running_since
    if whole.earliest_due_at is not None:
        end = whole.now + whole.batch_seconds + (whole.training_seconds or 0.0)
        assert end <= whole.earliest_due_at


@given(STATES, POLICIES, SECONDS)
def test_clock_that_is_set_back_only_delays(
    whole: RenewalState, policy: RenewalPolicy, seconds: float
) -> None:
    earlier = replace(whole, now=whole.now - seconds)
    if plan(earlier, policy).is_due(earlier.now):
        assert plan(whole, policy).is_due(whole.now)
    assert decide(earlier, policy) in Action


@given(STATES, POLICIES)
def test_decision_fits_the_state(whole: RenewalState, policy: RenewalPolicy) -> None:
    action = decide(whole, policy)
    if action in {Action.CLOSE_BATCH, Action.PREEMPT}:
        assert whole.batch_due_at is not None
    if action is Action.PREEMPT:
        assert whole.running_since is not None
    if action in {Action.START_RENEWAL, Action.CLOSE_BATCH}:
        assert whole.running_since is None
    if action is Action.WAIT and whole.running_since is None:
        # A due batch never waits without a renewal.
        assert whole.batch_due_at is None


@example(gaps=[], seconds=1.25, policy=RenewalPolicy(mode=ExactMode.DEADLINE))
@given(
    gaps=st.lists(st.floats(1.0, 2_000.0), max_size=30),
    seconds=st.floats(1.0, 300.0),
    policy=POLICIES,
)
def test_stream_of_batches_never_delays_an_exact_training_beyond_its_deadline(
    gaps: list[float], seconds: float, policy: RenewalPolicy
) -> None:
    """Follow the decisions, with one batch after each gap; every batch takes 50 seconds."""
    if policy.mode is ExactMode.OFF:
        return
    due_after = 2_000.0
    clock, oldest, preemptions = 0.0, 0.0, 0
    arrivals = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    running_since: float | None = None
    while clock < due_after:
        due_batches = [at for at in arrivals if at <= clock]
        facts = RenewalState(
            now=clock,
            approximate=1,
            oldest_completed_at=oldest,
            earliest_due_at=due_after,
            training_seconds=seconds,
            waiting=len(due_batches),
            batch_due_at=due_batches[0] if due_batches else None,
            batch_seconds=50.0,
            running_since=running_since,
            preemptions=preemptions,
        )
        action = decide(facts, policy)
        if action is Action.START_RENEWAL:
            running_since = clock
        elif action in {Action.CLOSE_BATCH, Action.PREEMPT}:
            preemptions += action is Action.PREEMPT
            running_since = None
            arrivals.remove(due_batches[0])
            clock += 50.0
            continue
        elif running_since is not None and clock >= running_since + seconds:
            assert preemptions <= MAX_PREEMPTIONS
            return
        clock += 1.0
    # A short renewal can end between the last step and the deadline.
    assert running_since is not None
    assert running_since + seconds <= due_after


def test_margin_starts_a_renewal_earlier_and_lets_a_batch_interrupt_it() -> None:
    policy = RenewalPolicy(mode=ExactMode.DEADLINE, margin_seconds=1000.0)
    waiting = RenewalState(
        now=0.0, approximate=1, earliest_due_at=10_000.0, training_seconds=100.0, waiting=1
    )
    start_at = plan(waiting, policy).start_at
    assert start_at == 10_000.0 - 200.0 - 1000.0
    running = replace(
        waiting, now=start_at + 10.0, running_since=start_at, batch_due_at=start_at + 5
    )
    assert may_preempt(running)
    assert not may_preempt(replace(running, now=9_900.0))
