"""Records a train job and follows it; where no worker is up, starts one for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from app.api.schemas import JobAnswer
from app.cli.failures import CommandError
from app.cli.following import follow_job, must_have_succeeded
from app.cli.processes import Child, Children
from app.cli.serving import worker
from app.domain.backbone_names import describe_backbone
from app.domain.jobs import JobKind
from app.services.jobs import start_training

if TYPE_CHECKING:
    from pathlib import Path

    from app.cli.installation import Installation
    from app.cli.screen import Screen


def run_training(
    screen: Screen,
    installation: Installation,
    backbone: str | None,
    *,
    log: Path,
) -> dict[str, Any]:
    """Return the job once it has succeeded, as the API would tell it.

    Without a backbone, a renewal keeps to the live release's, and a first release to the settings'.
    """
    with installation.uow() as uow:
        # With a release already live this is an exact renewal: the same training, audited.
        kind = JobKind.RENEW if uow.releases.alias().live else JobKind.TRAIN
        asked = {"backbone": backbone} if backbone else None
        job_id = start_training(uow, kind, asked).id
    chosen = backbone or installation.settings.backbone
    if kind is JobKind.TRAIN or backbone:
        # A Text, so that brackets in a path are not read as markup.
        screen.say(Text(f"  {chosen}: {describe_backbone(chosen)}"))
    with Children() as children:
        helper = ensure_worker(installation, children, log=log)
        job = follow_job(
            screen,
            lambda: read_job(installation, job_id),
            check=lambda: must_be_at_work(helper),
        )
    return must_have_succeeded(job)


def ensure_worker(
    installation: Installation,
    children: Children,
    *,
    log: Path,
    until_idle: bool = True,
) -> Child | None:
    """Start a worker, unless one is up."""
    with installation.uow(write=False) as uow:
        if uow.workers.live_count() > 0:
            return None
    return children.start(worker(until_idle=until_idle, log=log))


def must_be_at_work(helper: Child | None) -> None:
    """Raise CommandError where the worker that was started for this has given up."""
    status = helper.ended() if helper is not None else None
    if helper is not None and status:
        raise CommandError(
            f"The worker ended with status {status}; its log is {helper.log}. "
            "The job stays recorded, and the next worker takes it up."
        )


def read_job(installation: Installation, job_id: str) -> dict[str, Any]:
    """Return the job as the API would tell it."""
    with installation.uow(write=False) as uow:
        return JobAnswer.of(uow.jobs.get(job_id)).model_dump(mode="json")
