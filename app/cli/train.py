"""`lethe train`: record a training job and follow it; a worker is started if none is running."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import CommandError, command
from app.cli.installation import open_installation
from app.cli.jobs import follow_job, require_success
from app.cli.launch import worker
from app.cli.local_source import LocalSource
from app.cli.options import AsJson
from app.cli.processes import Child, Children
from app.cli.screen import Screen, table
from app.domain.backbone_names import KNOWN, check_backbone, describe_backbone
from app.domain.errors import JobNotCancellableError, LetheError
from app.domain.jobs import JobKind
from app.services.jobs import start_training
from app.settings import get_settings

if TYPE_CHECKING:
    from app.cli.installation import Installation

_PREDICTORS: Final = (
    ("model", "the model"),
    ("untuned", "the same model, untuned"),
    ("user_item_bias", "user + item bias"),
    ("item_mean", "item mean"),
)


@command
def train(
    backbone: Annotated[
        str | None,
        typer.Option(
            help=f"{KNOWN}. Default: the live release's backbone, or LETHE_BACKBONE.",
            metavar="NAME",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recommender on the imported data and publish it as a release."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    checked_backbone = None if backbone is None else check_backbone(backbone)
    with open_installation(settings) as installation:
        log = Path(settings.home) / "logs" / "worker.log"
        job = run_training(screen, installation, checked_backbone, log=log)
    screen.result(job, *training_summary(job))


def run_training(
    screen: Screen,
    installation: Installation,
    backbone: str | None,
    *,
    log: Path,
) -> dict[str, Any]:
    """Train, and return the succeeded job in the form of the API's JSON.

    Without `backbone`, a renewal keeps the live release's backbone and a first training takes the
    one of the settings.
    """
    with installation.uow() as uow:
        # With a live release this is an exact renewal: the same training, audited.
        kind = JobKind.RENEW if uow.releases.alias().live else JobKind.TRAIN
        options = {"backbone": backbone} if backbone else None
        job_id = start_training(uow, kind, options).id
    name = backbone or installation.settings.backbone
    if kind is JobKind.TRAIN or backbone:
        # A Text, so that brackets in a path are not read as markup.
        screen.say(Text(f"  {name}: {describe_backbone(name)}"))
    with Children(second_interrupt_kills=True) as children:
        started_worker = ensure_worker(installation, children, log=log)
        try:
            job = follow_job(
                screen,
                lambda: LocalSource(installation).progress_of(job_id),
                check=lambda: require_running(started_worker),
            )
        except KeyboardInterrupt:
            try:
                message = cancel_interrupted(installation, job_id)
            except KeyboardInterrupt:
                children.kill_all()
                raise
            raise KeyboardInterrupt(message) from None
    return require_success(job)


def cancel_interrupted(installation: Installation, job_id: str) -> str:
    """Cancel the job of an interrupted command and return the message for the user."""
    try:
        LocalSource(installation).cancel_job(job_id)
    except JobNotCancellableError as error:
        return f"Stopped. {error} See: lethe jobs {job_id}"
    except LetheError as error:
        return (
            f"Stopped, but the job {job_id} was not cancelled: {error} "
            f"Cancel it with: lethe jobs cancel {job_id}"
        )
    return f"Stopped. The job {job_id} is cancelled."


def ensure_worker(
    installation: Installation,
    children: Children,
    *,
    log: Path,
    until_idle: bool = True,
) -> Child | None:
    """Start a worker and return it, or return None if a worker is already running."""
    with installation.uow(write=False) as uow:
        if uow.workers.live_count() > 0:
            return None
    return children.start(worker(until_idle=until_idle, log=log))


def require_running(started_worker: Child | None) -> None:
    """Raise CommandError if the worker that this command started has failed."""
    status = started_worker.exit_status() if started_worker is not None else None
    if started_worker is not None and status:
        raise CommandError(
            f"The worker ended with status {status}; its log is {started_worker.log}. "
            "The job stays recorded, and the next worker runs it."
        )


def training_summary(job: dict[str, Any]) -> list[Any]:
    """Return the text for a succeeded training: quality beside the baselines, size and time."""
    training = job["metrics"]["tries"][-1]["training"]
    test = training["test"]
    scores = [
        (name, *(f"{test[key][measure]:.4f}" for measure in ("auc", "accuracy", "log_loss")))
        for key, name in _PREDICTORS
        if key in test
    ]
    return [
        table("test split", "AUC", "ACC", "LogLoss", rows=scores, numbers=(1, 2, 3)),
        (
            f"  {_parameters(training)}, {training['rows']['train']:,} training rows, "
            f"{training['fit_seconds']:.0f} s"
        ),
        f"  release [bold]{job['release']}[/bold]",
    ]


def _parameters(training: dict[str, Any]) -> str:
    """Return the number of parameters, and of trained ones where only a part was trained."""
    total = f"{training['parameters']:,} parameters"
    trained = training.get("trainable_parameters", training["parameters"])
    if trained == training["parameters"]:
        return total
    return f"{trained:,} of {total} trained ({trained / training['parameters']:.1%})"
