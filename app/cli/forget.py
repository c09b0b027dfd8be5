"""`lethe forget` requests a deletion; `lethe consent` accepts a forgotten user's data again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.api.schemas.jobs import JobAnswer
from app.cli.failures import CommandError, command
from app.cli.installation import open_installation
from app.cli.jobs import follow_job, job_name, read_job
from app.cli.options import AsJson, Items, RequestedBy, TicketReference, User
from app.cli.processes import Children
from app.cli.renewals import exact_outlook, wait_until_exact
from app.cli.requests import read_request
from app.cli.screen import Screen, facts
from app.cli.train import ensure_worker, require_running
from app.domain.renewal import ExactMode
from app.domain.requests import Attribution, RequestReason
from app.services.forget import ForgetCommand, request_forget
from app.services.pagination import list_jobs
from app.services.suppression import record_consent
from app.settings import get_settings

if TYPE_CHECKING:
    from app.cli.installation import Installation
    from app.cli.processes import Child
    from app.settings import Settings

#: Statuses of requests that a job has yet to finish; a held request waits for its release.
UNFINISHED = frozenset({"scheduled", "batched", "unlearning", "auditing", "rolling_out"})


@command
def forget(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    user: User,
    item: Items = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the deletion is completed.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Wait until a model trained without the data serves."),
    ] = False,
    suppress_unknown: Annotated[
        bool,
        typer.Option("--suppress-unknown", help="Suppress a user without data too."),
    ] = False,
    requested_by: RequestedBy = None,
    reason: Annotated[
        RequestReason, typer.Option("--reason", help="Why the deletion is requested.")
    ] = RequestReason.USER_REQUEST,
    reference: TicketReference = None,
    as_json: AsJson = False,
) -> None:
    """Request the deletion of a user, or of a user's ratings of single items.

    A repeated call returns the earlier request, so it can wait for a deletion of the past.
    """
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    with open_installation(settings) as installation:
        with installation.uow() as uow:
            request, created = request_forget(
                uow,
                installation.pseudonyms,
                settings,
                ForgetCommand.of(
                    user,
                    item or (),
                    None,
                    suppress_unknown=suppress_unknown,
                    attribution=Attribution(
                        requested_by=requested_by, reason=reason, reference=reference
                    ),
                ),
            )
        answer = read_request(installation, request.id)
        is_open = answer["status"] != "completed"
        if (is_open and (wait or exact)) or (exact and answer["assurance"] != "exact"):
            if created:
                screen.say(f"Recorded as {request.id}; suppressed from now on.")
            answer = _wait(screen, installation, request.id, until_exact=exact)
    note = [] if created else ["An earlier request covers this one."]
    outlook = _outlook(answer, settings)
    finding = [] if answer["finding"] is None else [Text(answer["finding"]["sentence"])]
    screen.result(answer, *note, facts(_summary(answer)), *finding, *outlook)


@command
def consent(user: User, item: Items = None, as_json: AsJson = False) -> None:
    """Record a forgotten user's new consent, so that data about the user is accepted again."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        lifted = record_consent(uow, installation.pseudonyms, user, item or ())
    screen.result({"lifted": lifted}, f"Consent recorded; {lifted} tombstone(s) lifted.")


def _summary(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about a request that the terminal shows."""
    names = ("id", "status", "scope", "outcome", "release", "assurance")
    values = {name: answer[name] for name in names} | {"due": answer["due_at"]}
    if answer["exact_at"] is not None:
        return values | {"exact since": answer["exact_at"]}
    return values | {"exact due": answer["exact_due_at"]}


def _outlook(answer: dict[str, Any], settings: Settings) -> list[str]:
    """Return the lines on the exact training of a completed deletion."""
    outlook = exact_outlook(answer, settings) if answer["status"] == "completed" else None
    if outlook is None:
        return []
    if settings.exact is not ExactMode.OFF:
        outlook += " To wait for it, repeat the command with --exact."
    return [outlook]


def _wait(
    screen: Screen, installation: Installation, request_id: str, *, until_exact: bool
) -> dict[str, Any]:
    """Follow the request until it is completed, or exact; start a worker if none is running."""
    log = Path(installation.settings.home) / "logs" / "worker.log"
    with Children() as children:
        # The worker must not end when idle: no job is due before the cancel window is over.
        worker = ensure_worker(installation, children, log=log, until_idle=False)
        answer = _wait_until_completed(screen, installation, request_id, worker)
        outlook = exact_outlook(answer, installation.settings)
        if not until_exact or outlook is None:
            return answer
        if installation.settings.exact is ExactMode.OFF:
            raise CommandError(f"The request {request_id} is completed. {outlook}")
        screen.say(f"Completed. {outlook} Ctrl-C ends the wait only.")
        return wait_until_exact(
            screen,
            lambda: read_request(installation, request_id),
            lambda: _newest_jobs(installation),
            check=lambda: require_running(worker),
        )


def _wait_until_completed(
    screen: Screen, installation: Installation, request_id: str, worker: Child | None
) -> dict[str, Any]:
    """Follow the request to its end, or raise CommandError if `worker` has failed."""
    told: set[str] = set()

    def read() -> dict[str, Any] | None:
        request = read_request(installation, request_id)
        blocker = request["waits_for"]
        if blocker is not None and blocker["job"] not in told:
            told.add(blocker["job"])
            screen.say(f"  Waits for the end of the {job_name(blocker)}.")
        if request["status"] not in UNFINISHED:
            # The bar ends with the request, not with the job: both end in one transaction.
            return {"status": request["status"], "stage": "done", "progress": 1.0}
        job_id = request["job_id"]
        return {**read_job(installation, job_id), "status": ""} if job_id else None

    follow_job(
        screen,
        read,
        check=lambda: require_running(worker),
        until=lambda job: bool(job["status"]),
    )
    answer = read_request(installation, request_id)
    if answer["status"] != "completed":
        raise CommandError(f"The request {request_id} is {answer['status']}. See: lethe jobs")
    return answer


def _newest_jobs(installation: Installation) -> list[dict[str, Any]]:
    with installation.uow(write=False) as uow:
        return [JobAnswer.of(job).model_dump(mode="json") for job in list_jobs(uow).items]
