"""The simulated years: three rates, two models, the modes of renewal, and faults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from app.domain.renewal import ExactMode
from app.settings import Settings
from benchmarks.renewal.arrivals import DAY, HOUR, Clock, Demand
from benchmarks.renewal.simulation import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.renewal.cost_model import Costs

RATES: Final = (10, 1_000, 100_000)
LONG_TRAINING: Final = 10 * HOUR
#: Users per deletion of a day: 0.1 % of the users ask for deletion each day.
_USERS_PER_DELETION: Final = 1_000
#: One user forgotten in SmolLM2, from docs/results/smollm2/results.json.
_SMOLLM2_SECONDS: Final = 221.9
_LARGE_BATCH: Final = 512
#: Outages of six hours, on one day of each month.
_OUTAGES: Final = tuple(((30 * month + 13) * DAY + 7 * HOUR, 6 * HOUR) for month in range(12))
_SET_BACK: Final = Clock(changes=((100.4 * DAY, -DAY),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A scenario with the words of its row in the table."""

    name: str
    model: str
    per_day: int
    mode: str
    scenario: Scenario


def all_scenarios(costs: Costs, days: int, seed: int, rates: tuple[int, ...]) -> Iterator[Named]:
    """Yield every scenario, the basic ones first."""
    long = costs.with_training(LONG_TRAINING)
    models = {
        "compact": costs,
        "10 h": long,
        "10 h, slow batches": long.with_batch(_SMOLLM2_SECONDS),
    }
    for per_day in rates:
        demand = Demand(per_day=per_day, days=days)
        for model, own_costs in models.items():
            for mode in (None, ExactMode.SOON, ExactMode.DEADLINE):
                if model != "10 h, slow batches" or mode is None:
                    yield _named("plain", model, mode, _scenario(demand, own_costs, mode, seed))
        large = _scenario(demand, models["10 h, slow batches"], None, seed)
        if per_day > RATES[1]:
            settings = large.settings.model_copy(update={"batch_size": _LARGE_BATCH})
            large = replace(large, settings=settings)
            yield _named(f"batches of {_LARGE_BATCH}", "10 h, slow batches", None, large)
    for per_day in (rate for rate in rates if rate <= RATES[1]):
        for model in ("compact", "10 h"):
            plain = _scenario(Demand(per_day=per_day, days=days), models[model], None, seed)
            yield from _with_faults(model, plain)


def _with_faults(model: str, plain: Scenario) -> Iterator[Named]:
    """Yield the scenario with one kind of fault each, and with all of them."""
    burst = replace(plain.demand, burst_day=plain.demand.days // 2)
    faults: dict[str, dict[str, object]] = {
        "burst ×100 on a day": {"demand": burst},
        "20 % of renewals fail": {"failure_share": 0.2},
        "outages of 6 h": {"outages": _within(plain)},
        "clock set back a day": {"clock": _SET_BACK},
        "10 % inconclusive": {"inconclusive_share": 0.1},
        "1 % of users leave a day": {"users": plain.users / 10},
    }
    everything = {name: value for fault in faults.values() for name, value in fault.items()}
    # One kind of fault at a time is simulated at the lowest rates only, which are fast.
    kinds = faults if plain.demand.per_day <= RATES[0] else {}
    for name, changes in {**kinds, "all of these": everything}.items():
        yield _named(name, model, None, replace(plain, **changes))  # type: ignore[arg-type]


def _scenario(demand: Demand, costs: Costs, mode: ExactMode | None, seed: int) -> Scenario:
    return Scenario(
        demand=demand,
        costs=costs,
        settings=default_settings(mode),
        users=_USERS_PER_DELETION * demand.per_day,
        seed=seed,
    )


def default_settings(mode: ExactMode | None) -> Settings:
    """Return the default settings, without those of the environment, with this mode."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    return Settings.model_construct(**{**defaults, "exact": mode})


def _within(plain: Scenario) -> tuple[tuple[float, float], ...]:
    return tuple(outage for outage in _OUTAGES if outage[0] < plain.demand.days * DAY)


def _named(name: str, model: str, mode: ExactMode | None, scenario: Scenario) -> Named:
    return Named(
        name=name,
        model=model,
        per_day=int(scenario.demand.per_day),
        mode="default" if mode is None else mode.value,
        scenario=scenario,
    )
