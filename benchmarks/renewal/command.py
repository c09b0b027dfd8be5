"""The commands `renewal-costs` and `renewal` of `lethe benchmark`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from app.cli.demo.command import SHIPPED_DATA
from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson
from app.cli.screen import Screen

#: The costs in this checkout.
MEASURED: Final = Path(__file__).parent / "costs.json"


@command
def renewal_costs(
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON file for the measured costs.")],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set. Default: data/ml-latest-small.")
    ] = SHIPPED_DATA,
    sizes: Annotated[
        str, typer.Option(metavar="1,8,…", help="Deletions per forget job.")
    ] = "1,8,32,128",
    repetitions: Annotated[int, typer.Option(min=1, help="Forget jobs per size.")] = 2,
    trainings: Annotated[int, typer.Option(min=1, help="Exact trainings.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Measure the seconds of forget jobs and exact trainings for the simulation of renewals."""
    screen = Screen.make(as_json=as_json)
    if not data.exists():
        raise BadInputError(f"{data} does not exist. Check --data.")
    numbers = _rising(sizes, "--sizes")
    from benchmarks.renewal import costs  # noqa: PLC0415 -- needs torch
    from benchmarks.serving.measurement import SetUpFailedError  # noqa: PLC0415 -- needs torch

    with tempfile.TemporaryDirectory(prefix="lethe-renewal-") as temporary:
        options = costs.Options(
            data=data.absolute(),
            home=Path(temporary) / "home",
            sizes=numbers,
            repetitions=repetitions,
            trainings=trainings,
        )
        line = (
            f"python -m benchmarks renewal-costs --data {data.name} --sizes {sizes}"
            f" --repetitions {repetitions} --trainings {trainings}"
        )
        try:
            measured = costs.measure(options, line)
        except (SetUpFailedError, TimeoutError) as error:
            raise CommandError(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    screen.result(measured, Text(f"  {len(measured['jobs'])} jobs measured: {out}"))


@command
def renewal(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the results.")],
    costs: Annotated[
        Path, typer.Option(metavar="FILE", help="Measured costs. Default: those of this checkout.")
    ] = MEASURED,
    rates: Annotated[
        str, typer.Option(metavar="10,1000,…", help="Deletions per day.")
    ] = "10,1000,100000",
    days: Annotated[int, typer.Option(min=1, help="Days of each scenario.")] = 365,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Scenarios at a time.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Simulate a year of deletions and renewals with measured costs."""
    screen = Screen.make(as_json=as_json)
    per_day = _rising(rates, "--rates")
    from benchmarks.renewal import report, year  # noqa: PLC0415 -- needs numpy and SimPy
    from benchmarks.renewal.cost_model import Costs, CostsError  # noqa: PLC0415 -- needs numpy
    from benchmarks.unlearning.plots import require_matplotlib  # noqa: PLC0415 -- optional

    try:
        measured = Costs.read(costs)
    except CostsError as error:
        raise BadInputError(f"{error} Check --costs.") from error
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    with screen.progress() as progress:
        task = progress.add_task("simulating", total=None)
        results = year.simulate_all(
            year.Options(costs=measured, rates=per_day, days=days, seed=seed, processes=processes),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    text = json.dumps(results, indent=1, allow_nan=False)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    (out / "table.md").write_text(report.markdown(results), encoding="utf-8")
    report.write_plot(results, out)
    screen.result(results, report.terminal_table(results))


def _rising(text: str, option: str) -> tuple[int, ...]:
    """Parse rising positive numbers; raises BadInputError."""
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or list(numbers) != sorted(set(numbers)):
        raise BadInputError(f"{option} takes rising numbers from 1, separated by commas.")
    return numbers
