"""Run all scenarios of `lethe benchmark renewal`, several at a time."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

from benchmarks.renewal import scenarios
from benchmarks.renewal.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.renewal.cost_model import Costs
    from benchmarks.renewal.scenarios import Named

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
    named = list(scenarios.all_scenarios(options.costs, options.days, options.seed, options.rates))
    rows: dict[int, dict[str, Any]] = {}
    # A child that is forked while another thread holds a lock would wait forever.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        # The longest first, so that none of them is left for the end.
        order = sorted(range(len(named)), key=lambda index: -named[index].per_day)
        futures = {pool.submit(run, named[index]): index for index in order}
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            report(len(rows), len(named))
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
        "scenarios": [rows[index] for index in range(len(named))],
    }


def run(named: Named) -> dict[str, Any]:
    """Simulate a scenario and return its row."""
    return {
        "per_day": named.per_day,
        "model": named.model,
        "mode": named.mode,
        "name": named.name,
        "figures": simulate(named.scenario).figures(),
    }
