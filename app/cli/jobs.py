"""`lethe jobs`: list jobs, show or cancel one job, and follow a job on a progress bar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson, Key, Url
from app.cli.screen import Screen, facts, moment, table
from app.cli.source import open_source
from app.domain.jobs import JobKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from app.cli.source import Source

POLL_SECONDS: Final = 0.25
#: The text for each stage of a job.
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
_CANCEL: Final = "cancel"
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "dead"})

Job = dict[str, Any]


@command
def jobs(
    job_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID|cancel]", help="Show this job, or cancel the next."),
    ] = None,
    cancel_id: Annotated[str | None, typer.Argument(metavar="[ID]", hidden=True)] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List training and unlearning jobs, show one job, or cancel a training."""
    screen = Screen.make(as_json=as_json)
    is_cancel = job_id == _CANCEL
    if is_cancel is (cancel_id is None):
        raise BadInputError("Give the id of one job: lethe jobs ID, or lethe jobs cancel ID")
    with open_source(url, key) as source:
        if cancel_id is not None:
            screen.result(source.cancel_job(cancel_id), f"The job {cancel_id} is cancelled.")
        elif job_id is not None:
            job = source.job(job_id)
            screen.result(job, *_job_details(job))
        else:
            page = source.jobs()
            screen.listing(page, _jobs_table(page["items"]), *_notes(source, page["items"]))


def _notes(source: Source, items: Sequence[Job]) -> list[str]:
    """Return the notes of the list: the next command, or what delays deletions."""
    if not items:
        return ["No job yet. Run: lethe train"]
    open_job = next((job for job in items if job["status"] not in ENDED), None)
    if open_job is None or open_job["kind"] == JobKind.FORGET:
        return []
    waiting = source.waiting()
    if not waiting:
        return []
    name = job_name(open_job | {"job": open_job["id"]})
    return [f"{waiting} deletion request(s) wait for the end of the {name}."]


def job_name(blocker: dict[str, Any]) -> str:
    """Return the name of the job in a request's field `waits_for`."""
    kind = "renewal" if blocker["kind"] == JobKind.RENEW else "training"
    reason = f" (reason: {blocker['reason']})" if blocker["reason"] else ""
    return f"{kind} {blocker['job']}{reason}"


def follow_job(
    screen: Screen,
    read: Callable[[], Job | None],
    *,
    check: Callable[[], None] = lambda: None,
    until: Callable[[Job], bool] = lambda job: job["status"] in ENDED,
) -> Job:
    """Show a job's progress until it ends, and return the job.

    `read` returns None while there is no job. `check` is called on every poll and raises when no
    worker is left to run the job. Without a terminal, each stage is printed on its own line.
    """
    printed_stage: str | None = None
    printed_error: str | None = None
    with screen.progress() as progress:
        task = progress.add_task(STAGES["waiting"], total=1.0)
        while True:
            job = read()
            if job is not None:
                stage = STAGES.get(job["stage"], job["stage"])
                progress.update(task, completed=job["progress"], description=stage)
                if not screen.console.is_terminal and stage != printed_stage:
                    printed_stage = stage
                    screen.say(f"  {job['progress']:4.0%}  {stage}")
                if job.get("error") not in {None, printed_error} and job["status"] not in ENDED:
                    printed_error = job["error"]
                    # A Text, so that brackets in a path are not read as markup.
                    screen.say(Text(f"  The last try failed and is repeated: {printed_error}"))
                if until(job):
                    return job
            check()
            time.sleep(POLL_SECONDS)


def require_success(job: Job) -> Job:
    """Return the job, or raise CommandError unless it succeeded."""
    if job["status"] != "succeeded":
        reason = job.get("error") or "no reason was recorded"
        raise CommandError(f"The job {job['id']} is {job['status']}: {reason}.")
    return job


def audit_report(figures: dict[str, Any]) -> Table:
    """Return an audit's loss changes in nats and shares of the expected change, with intervals."""
    rows = []
    for key, name in (
        ("forget", "forgotten rows: change in loss"),
        ("holdout", "holdout users: change in loss"),
        ("cohort", "holdout users: change in loss"),  # the key that earlier versions stored
        ("movement", "forgotten less holdout"),
        ("test", "test rows: change in loss"),
    ):
        if key in figures:
            change = figures[key]
            low, high = (_bound(value) for value in change["interval"])
            rows.append((name, f"{change['mean']:+.4f}", f"{low} … {high}", change["rows"]))
    for kind in figures.get("kinds", {}).values():
        for view, share in kind.get("shares", {}).items():
            low, high = (f"{value:.0%}" for value in share["interval"])
            name = f"{view}: share of the expected change"
            rows.append((name, f"{share['share']:.0%}", f"{low} … {high}", kind["rows"]))
    if "floor" in figures:  # stored by earlier versions
        allowed = f"{figures['floor']:+.4f} … {figures['ceiling']:+.4f}"
        mean = f"{figures['expected']['mean']:+.4f}"
        rows.append(("expected change, and allowed range", mean, allowed, ""))
    return table("", "mean", "interval", "rows", rows=rows, numbers=(1, 2, 3))


def _jobs_table(items: Sequence[Job]) -> Table:
    rows = [
        (
            job["id"],
            job["kind"],
            job["status"],
            job["stage"],
            f"{job['progress']:.0%}",
            job["reason"] or "",
            job["method"],
            moment(job["created_at"]),
        )
        for job in items
    ]
    names = ("job", "kind", "status", "stage", "", "reason", "method", "created")
    return table(*names, rows=rows, numbers=(4,), whole=(0,))


def _job_details(job: Job) -> list[Any]:
    names = ("id", "kind", "reason", "status", "stage", "method", "attempts", "release", "error")
    details: list[Any] = [facts({name: job[name] for name in names})]
    seconds_per_stage = job["metrics"].get("stage_seconds")
    if seconds_per_stage:
        rows = [
            (STAGES.get(name, name), f"{spent:.1f} s") for name, spent in seconds_per_stage.items()
        ]
        details.append(table("", "", rows=rows, numbers=(1,)))
    for attempt, audit in zip(job["metrics"].get("tries", []), job["audits"], strict=True):
        if attempt["audit"]:
            details += [
                Text(f"{attempt['attempt']}: {audit['sentence'] or attempt['outcome']}"),
                audit_report(attempt["audit"]),
            ]
    if job["findings"]:
        rows = [(found["request"], found["sentence"]) for found in job["findings"]]
        details.append(table("request", "what the audit shows", rows=rows))
        left_out = sum(job["outcomes"].values()) - len(rows)
        details += [f"{left_out} more requests are not shown."] if left_out else []
    return details


def _bound(value: float | None) -> str:
    return "∞" if value is None else f"{value:+.4f}"
