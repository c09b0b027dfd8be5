"""Following a job on a progress bar until it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from app.cli.failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.screen import Screen

POLL_SECONDS: Final = 0.25
#: What people read for each stage.
STAGES: Final = {
    "waiting": "waiting",
    "snapshot": "taking a snapshot of the data",
    "train": "training",
    "unlearn": "unlearning",
    "merge": "merging the adapter",
    "audit": "auditing",
    "publish": "publishing",
    "roll_out": "rolling out",
    "delete_rows": "deleting rows",
    "shred": "shredding",
    "certify": "certifying",
    "done": "done",
}
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "dead"})

Job = dict[str, Any]


def follow_job(
    screen: Screen,
    read: Callable[[], Job | None],
    *,
    check: Callable[[], None] = lambda: None,
    until: Callable[[Job], bool] = lambda job: job["status"] in ENDED,
) -> Job:
    """Show the job until it has ended, and return it; `check` raises where nobody works on it.

    `read` returns None before there is a job. Where no terminal shows the bar, each stage is told
    on a line of its own.
    """
    told: str | None = None
    with screen.progress() as progress:
        task = progress.add_task(STAGES["waiting"], total=1.0)
        while True:
            job = read()
            if job is not None:
                stage = STAGES.get(job["stage"], job["stage"])
                progress.update(task, completed=job["progress"], description=stage)
                if not screen.console.is_terminal and stage != told:
                    told = stage
                    screen.say(f"  {job['progress']:4.0%}  {stage}")
                if until(job):
                    return job
            check()
            time.sleep(POLL_SECONDS)


def must_have_succeeded(job: Job) -> Job:
    """Raise CommandError unless the job succeeded."""
    if job["status"] != "succeeded":
        reason = job.get("error") or "it gives no reason"
        raise CommandError(f"The job {job['id']} is {job['status']}: {reason}.")
    return job
