"""The simulation: a hand computation, invariants, faults, and the real decision function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.domain import renewal
from app.domain.renewal import MAX_PREEMPTIONS, Action, ExactMode
from benchmarks.renewal.arrivals import DAY, HOUR, Clock, Demand
from benchmarks.renewal.cost_model import Costs
from benchmarks.renewal.scenarios import default_settings
from benchmarks.renewal.simulation import Scenario, simulate

if TYPE_CHECKING:
    from app.domain.renewal import RenewalPolicy, RenewalState

COSTS = Costs(
    sizes=(1.0, 32.0),
    batches=(10.0, 41.0),
    trainings=(100.0,),
    roll_out=5.0,
    shred=2.0,
    certificate=0.5,
)


class At(Demand):
    """Requests at given times instead of random ones."""

    times: tuple[float, ...] = ()

    def draw(self, generator: np.random.Generator) -> Any:
        del generator
        return np.array(self.times, float)


def at(*times: float, days: int = 1) -> Demand:
    demand = At(per_day=0.0, days=days)
    object.__setattr__(demand, "times", times)
    return demand


def scenario(demand: Demand, mode: ExactMode | None = ExactMode.SOON, **changes: Any) -> Scenario:
    values = {"costs": COSTS, "settings": default_settings(mode), "users": 1e6, **changes}
    return Scenario(demand=demand, **values)


def figures(own: Scenario) -> dict[str, Any]:
    return simulate(own).figures()


def test_two_deletions_by_hand() -> None:
    """A batch closes 60 + 30 seconds after its first request.

    The first batch runs from 90 to 100, then a renewal starts, because no deletion waits. The
    request of 105 is due at 195 and interrupts the renewal: its batch runs from 195 to 205. The
    next renewal trains until 305, rolls out until 310, shreds until 312, and certifies both until
    313.
    """
    result = figures(scenario(at(0.0, 105.0)))

    assert result["batches"] == 2
    assert (result["renewals"], result["preemptions"], result["failed_renewals"]) == (1, 1, 0)
    assert result["to_completed"] == pytest.approx({"median": 100, "p95": 100, "latest": 100})
    assert result["to_exact"] == pytest.approx({"median": 260.5, "p95": 307.75, "latest": 313.0})
    assert result["least_slack"] == pytest.approx(30 * DAY - 313.0)
    assert result["forget_hours"] == pytest.approx(20.0 / HOUR)
    assert result["renewal_hours"] == pytest.approx((95.0 + 108.0) / HOUR)
    assert result["utilization"] == pytest.approx(223.0 / DAY)
    assert result["waited_for_renewal"]["share_of_requests"] == 0.0
    assert result["queue_at_end"] == 0


def test_deadline_by_hand_and_a_deletion_that_interrupts() -> None:
    """The renewal starts a day and two trainings before the deadline of 30 days.

    A deletion is due 50 seconds later and interrupts the renewal: its batch takes 10 seconds. The
    next renewal takes 100 + 5 + 2 seconds and half a second for each of two certificates.
    """
    start = 29 * DAY - 200.0

    result = figures(scenario(at(0.0, start + 50.0 - 90.0, days=31), ExactMode.DEADLINE))

    assert (result["renewals"], result["preemptions"]) == (1, 1)
    assert result["exact"] == 2
    assert result["to_exact"]["latest"] == pytest.approx(start + 60.0 + 108.0)
    assert result["least_slack"] == pytest.approx(DAY + 200.0 - 168.0)
    assert result["waited_for_renewal"]["share_of_requests"] == 0.0


def test_deletion_after_two_interruptions_waits() -> None:
    """The third deletion is due 50 seconds after the renewal of the second interruption started."""
    start = 29 * DAY - 200.0
    due = (start + 50.0, start + 110.0, start + 170.0)
    times = (0.0, *(time - 90.0 for time in due))

    result = figures(scenario(at(*times, days=31), ExactMode.DEADLINE))

    assert (result["renewals"], result["preemptions"]) == (1, 2)
    waited = result["waited_for_renewal"]
    assert waited["share_of_requests"] == 0.25
    # The last renewal starts at 120 and takes 107 seconds and three certificates.
    assert waited["latest"] == pytest.approx(120.0 + 108.5 - 170.0)
    assert waited["share_of_time"] == pytest.approx(58.5 / (31 * DAY))


def test_renewals_that_always_fail_miss_the_deadline() -> None:
    own = scenario(at(0.0, days=31), ExactMode.DEADLINE)

    result = figures(replace(own, failure_share=1.0))

    assert result["renewals"] == 0
    assert result["failed_renewals"] > 5
    assert result["missed_deadlines"] == 1
    assert result["least_slack"] is None


@pytest.mark.parametrize("mode", [None, ExactMode.SOON, ExactMode.DEADLINE])
@pytest.mark.parametrize("training", [100.0, 4 * HOUR])
def test_no_deletion_is_lost_and_no_deadline_is_missed(
    mode: ExactMode | None, training: float
) -> None:
    own = scenario(
        Demand(per_day=60, days=70),
        mode,
        costs=replace(COSTS.with_training(training), certificate=0.01),
        users=60_000,
    )

    result = figures(own)

    assert result["completed"] + result["queue_at_end"] == result["requests"]
    assert result["requests"] > 4_000
    assert result["queue_at_end"] < 20
    assert result["missed_deadlines"] == 0
    assert result["least_slack"] > 0
    assert result["preemptions_in_a_row"] <= MAX_PREEMPTIONS
    assert 0.0 < result["utilization"] < 1.0
    assert result["renewals"] >= 2


@pytest.mark.parametrize(
    "faults",
    [
        {"failure_share": 0.3},
        {"inconclusive_share": 0.3},
        {"outages": ((10.3 * DAY, 6 * HOUR), (12 * DAY, 9 * HOUR))},
        {"clock": Clock(changes=((9.4 * DAY, -HOUR),))},
        {"users": 2_000.0},
        {"demand": Demand(per_day=60, days=20, burst_day=10)},
    ],
)
def test_faults_lose_no_deletion(faults: dict[str, Any]) -> None:
    own = replace(scenario(Demand(per_day=60, days=20)), **faults)

    result = figures(own)

    assert result["completed"] + result["queue_at_end"] == result["requests"]
    assert result["queue_at_end"] < 20
    assert result["exact"] > 0.95 * result["requests"]
    assert result["missed_deadlines"] == 0
    assert result["preemptions_in_a_row"] <= MAX_PREEMPTIONS


def test_outage_repeats_the_training_and_delays_all() -> None:
    """The outage from 150 to 350 interrupts the renewal of 100, which starts again."""
    own = replace(scenario(at(0.0)), outages=((150.0, 200.0),))

    result = figures(own)

    assert result["to_exact"]["latest"] == pytest.approx(350.0 + 107.5)
    assert result["renewal_hours"] == pytest.approx((50.0 + 107.5) / HOUR)


def test_outage_in_the_rollout_repeats_nothing() -> None:
    own = replace(scenario(at(0.0)), outages=((203.0, 200.0),))

    assert figures(own)["to_exact"]["latest"] == pytest.approx(207.5 + 200.0)


def test_drift_renews_before_the_deadline() -> None:
    own = scenario(Demand(per_day=60, days=20), ExactMode.DEADLINE)

    assert figures(own)["renewals"] == 0
    # More than 10 % of 2,000 users are gone after 3.3 days.
    assert figures(replace(own, users=2_000.0))["renewals"] == 5


def test_users_who_joined_lately_are_exact_at_once() -> None:
    own = scenario(Demand(per_day=60, days=20), ExactMode.DEADLINE, users=60 * 20)
    own = replace(own, settings=own.settings.model_copy(update={"drift_rows": 1.0}))

    result = figures(own)

    # On average half of the deleted users joined since the only training.
    assert result["exact"] / result["requests"] == pytest.approx(0.5, abs=0.04)


def test_more_frequent_decisions_change_nothing() -> None:
    """Between the computed times of decisions, nothing changes that a decision depends on."""
    own = scenario(Demand(per_day=200, days=2), costs=COSTS.with_training(900.0))

    often, seldom = figures(replace(own, tick=20.0)), figures(own)

    # Sums of other pieces round differently.
    for name in ("renewal_hours", "utilization"):
        assert often.pop(name) == pytest.approx(seldom.pop(name))
    assert often == seldom


def test_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    own = scenario(Demand(per_day=200, days=5), failure_share=0.1, inconclusive_share=0.1)

    assert figures(own) == figures(own)
    assert figures(own) != figures(replace(own, seed=1))


def test_decisions_are_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scenario(Demand(per_day=200, days=5))
    normal = figures(own)
    decide = renewal.decide

    def without_renewals(state: RenewalState, policy: RenewalPolicy) -> Action:
        action = decide(state, policy)
        return (
            Action.CLOSE_BATCH
            if action is Action.START_RENEWAL and state.batch_due_at
            else (Action.WAIT if action is Action.START_RENEWAL else action)
        )

    monkeypatch.setattr(renewal, "decide", without_renewals)
    broken = figures(own)

    assert normal["renewals"] > 0
    assert broken["renewals"] == 0
    assert broken["exact"] < normal["exact"]


def test_preemption_is_the_services_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scenario(Demand(per_day=200, days=5), costs=COSTS.with_training(900.0))
    normal = figures(own)

    monkeypatch.setattr(renewal, "may_preempt", lambda _: False)

    assert normal["preemptions"] > 0
    assert figures(own)["preemptions"] == 0
