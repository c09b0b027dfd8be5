"""`lethe import` and `lethe train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from app.cli.failures import BadInputError, command
from app.cli.importing import run_import
from app.cli.installation import open_installation
from app.cli.options import AsJson, DataPath
from app.cli.reports import import_report, training_report
from app.cli.screen import Screen
from app.cli.training import run_training
from app.domain.backbone_names import KNOWN, check_backbone
from app.settings import get_settings

if TYPE_CHECKING:
    from typing import Any


@command
def import_data(
    path: DataPath,
    layout: Annotated[
        str, typer.Option("--format", help="A format's name; auto looks at the files.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Import ratings: MovieLens, Goodreads, generic CSV or Parquet."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    if not path.exists():
        raise BadInputError(f"{path} does not exist. Check the path.")
    with open_installation(settings):
        summary = run_import(screen, path, layout)
    screen.result(summary, import_report(summary), *map(Text, summary["notes"]))


@command
def train(
    backbone: Annotated[
        str | None,
        typer.Option(
            help=f"{KNOWN}. Without it: the live release's, or LETHE_BACKBONE.", metavar="NAME"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a recommender on what was imported and publish it as a release."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    chosen = None if backbone is None else check_backbone(backbone)
    with open_installation(settings) as installation:
        log = Path(settings.home) / "logs" / "worker.log"
        job = run_training(screen, installation, chosen, log=log)
    screen.result(job, *training_summary(job))


def training_summary(job: dict[str, Any]) -> list[Any]:
    """Return what people read after a training."""
    training = job["metrics"]["tries"][-1]["training"]
    rows = training["rows"]
    return [
        training_report(training),
        (
            f"  {_parameters(training)}, {rows['train']:,} training rows, "
            f"{training['fit_seconds']:.0f} s"
        ),
        f"  release [bold]{job['release']}[/bold]",
    ]


def _parameters(training: dict[str, Any]) -> str:
    """Say how many parameters there are, and how many of them were trained where not all were."""
    everything = f"{training['parameters']:,} parameters"
    trained = training.get("trainable_parameters", training["parameters"])
    if trained == training["parameters"]:
        return everything
    return f"{trained:,} of {everything} trained ({trained / training['parameters']:.1%})"
