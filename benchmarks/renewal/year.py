"""Run all scenarios of `lethe benchmark renewal`, several at a time."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

from app.domain.renewal import effective_mode
from app.services.renewals import policy
from benchmarks.renewal import scenarios
from benchmarks.renewal.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.renewal.cost_model import Costs
    from benchmarks.renewal.scenarios import Named
    from benchmarks.renewal.simulation import Scenario

_CAPACITY_SIZES: Final = (1, 8, 32, 128, 512, 2_048)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the simulation."""

    costs: Costs
    rates: tuple[int, ...]
    days: int
    seed: int
    processes: int


def simulate_all(options: Options, report: Callable[[int, int], None]) -> dict[str, Any]:
    """Simulate every scenario and return the document of the results."""
    scenarios_of_year = distinct(options)
    figures: dict[str, dict[str, Any]] = {}
    # A child that is forked while another thread holds a lock would wait forever.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(figures_of, own): key for key, own in scenarios_of_year.items()}
        for future in as_completed(futures):
            figures[futures[future]] = future.result()
            report(len(figures), len(futures))
    return assemble(options, figures)


def distinct(options: Options) -> dict[str, Scenario]:
    """Return the scenarios by key, without those that only name the default mode, largest first."""
    named = sorted(_named(options), key=lambda own: -own.per_day)
    return {_key(own.scenario): own.scenario for own in named}


def assemble(options: Options, figures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the document of the results."""
    costs = options.costs
    return {
        "days": options.days,
        "seed": options.seed,
        "exact_days": scenarios.default_settings(None).exact_days,
        "costs": asdict(costs),
        "capacity": [
            {
                "size": size,
                "seconds": costs.batch_seconds(size),
                "per_day": costs.deletions_per_day(size),
            }
            for size in _CAPACITY_SIZES
        ],
        "scenarios": [
            {
                "per_day": own.per_day,
                "model": own.model,
                "mode": own.mode,
                "name": own.name,
                "figures": figures[_key(own.scenario)],
            }
            for own in _named(options)
        ],
    }


def _named(options: Options) -> list[Named]:
    return list(scenarios.all_scenarios(options.costs, options.days, options.seed, options.rates))


def figures_of(scenario: Scenario) -> dict[str, Any]:
    """Simulate a scenario and return its figures."""
    return simulate(scenario).figures()


def _key(scenario: Scenario) -> str:
    """Return a text that is equal for scenarios with equal results.

    The default mode is replaced by the mode that all trainings of the scenario have by default.
    """
    trainings = [seconds + scenario.costs.roll_out for seconds in scenario.costs.trainings]
    modes = {effective_mode(policy(scenario.settings), seconds) for seconds in trainings}
    if len(modes) > 1:
        return repr(scenario)
    settings = scenario.settings.model_copy(update={"exact": modes.pop()})
    return repr(replace(scenario, settings=settings))
