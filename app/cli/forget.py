"""`lethe forget` requests a deletion; `lethe consent` accepts a forgotten user's data again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.cli.deletions import outcomes_document, outcomes_table, record_all, wait_for_all
from app.cli.exit_codes import ExitCode
from app.cli.failures import BadInputError, CommandError, command
from app.cli.jobs import follow_job, job_name
from app.cli.options import AsJson, Items, Key, RequestedBy, TicketReference, Url, User
from app.cli.processes import Children
from app.cli.renewals import exact_outlook, wait_until_exact
from app.cli.screen import Screen, facts
from app.cli.source import open_source
from app.cli.train import ensure_worker, require_running
from app.cli.user_ids import read_user_ids
from app.domain.renewal import ExactMode
from app.domain.requests import Attribution, RequestReason
from app.services.forget import ForgetCommand

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.processes import Child
    from app.cli.source import Source

Request = dict[str, Any]

#: Statuses of requests that a job has yet to finish; a held request waits for its release.
UNFINISHED = frozenset({"scheduled", "batched", "unlearning", "auditing", "rolling_out"})


@command
def forget(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    users: Annotated[
        list[str] | None,
        typer.Argument(metavar="USER...", help="Ids of users.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also the users in this file: one id per line, or a CSV column user_id; - is"
            " standard input.",
        ),
    ] = None,
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
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Request the deletion of users, or of a user's ratings of single items.

    A repeated call returns the earlier request, so it can wait for a deletion of the past. Several
    users, or a file, give one line per user; one bad id does not stop the others.
    """
    screen = Screen.make(as_json=as_json)
    attribution = Attribution(requested_by=requested_by, reason=reason, reference=reference)
    commands = [
        ForgetCommand.of(
            user, item or (), None, suppress_unknown=suppress_unknown, attribution=attribution
        )
        for user in _user_ids(users, file, item)
    ]
    with open_source(url, key) as source:
        wait_for = partial(_wait_for, screen, source, until_exact=exact) if wait or exact else None
        if file is None and len(commands) == 1:
            _forget_one(screen, source, commands[0], wait_for)
        else:
            _forget_several(screen, source, commands, wait_for)


def _user_ids(users: list[str] | None, file: Path | None, items: list[str] | None) -> list[str]:
    """Return the distinct ids of the arguments and of the file, in their order."""
    ids = list(dict.fromkeys([*(users or ()), *([] if file is None else read_user_ids(file))]))
    if not ids:
        raise BadInputError("Give the id of a user, or a file with ids: lethe forget --file PATH")
    if items and (len(ids) > 1 or file is not None):
        raise BadInputError("--item is about ratings of one user. Give one user, and no --file.")
    return ids


def _forget_one(
    screen: Screen,
    source: Source,
    command: ForgetCommand,
    wait_for: Callable[[Request], Request] | None,
) -> None:
    """Record one deletion, and show the request."""
    answer, created = source.forget(command)
    if wait_for is not None:
        if created:
            screen.say(f"Recorded as {answer['id']}; suppressed from now on.")
        answer = wait_for(answer)
    note = [] if created else ["An earlier request covers this one."]
    outlook = _outlook(answer, source.exact)
    finding = [] if answer["finding"] is None else [Text(answer["finding"]["sentence"])]
    screen.result(answer, *note, facts(_summary(answer)), *finding, *outlook)


def _forget_several(
    screen: Screen,
    source: Source,
    commands: list[ForgetCommand],
    wait_for: Callable[[Request], Request] | None,
) -> None:
    """Record deletions, and show one line per user; exit with a failure if one failed."""
    outcomes = record_all(source, commands)
    if wait_for is not None:
        outcomes = wait_for_all(outcomes, wait_for)
    document = outcomes_document(outcomes)
    counts = "{recorded} recorded, {covered} covered by earlier requests, {failed} failed."
    screen.listing(document, outcomes_table(outcomes), counts.format(**document))
    if document["failed"]:
        raise typer.Exit(ExitCode.FAILURE)


@command
def consent(
    user: User, item: Items = None, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Record a forgotten user's new consent, so that data about the user is accepted again."""
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        lifted = source.consent(user, item or ())
    screen.result({"lifted": lifted}, f"Consent recorded; {lifted} tombstone(s) lifted.")


def _summary(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about a request that the terminal shows."""
    names = ("id", "status", "scope", "outcome", "release", "assurance")
    values = {name: answer[name] for name in names} | {"due": answer["due_at"]}
    if answer["exact_at"] is not None:
        return values | {"exact since": answer["exact_at"]}
    return values | {"exact due": answer["exact_due_at"]}


def _outlook(answer: Request, mode: ExactMode | None) -> list[str]:
    """Return the lines on the exact training of a completed deletion."""
    outlook = exact_outlook(answer, mode) if answer["status"] == "completed" else None
    if outlook is None:
        return []
    if mode is not ExactMode.OFF:
        outlook += " To wait for it, repeat the command with --exact."
    return [outlook]


def _wait_for(screen: Screen, source: Source, answer: Request, *, until_exact: bool) -> Request:
    """Follow the request until it is completed, or exact; start a worker if none is running."""
    if answer["status"] == "completed" and not (until_exact and answer["assurance"] != "exact"):
        return answer
    request_id = answer["id"]
    with Children() as children:
        worker = None
        if source.installation is not None:
            log = Path(source.installation.settings.home) / "logs" / "worker.log"
            # The worker must not end when idle: no job is due before the cancel window is over.
            worker = ensure_worker(source.installation, children, log=log, until_idle=False)
        answer = _wait_until_completed(screen, source, request_id, worker)
        outlook = exact_outlook(answer, source.exact)
        if not until_exact or outlook is None:
            return answer
        if source.exact is ExactMode.OFF:
            raise CommandError(f"The request {request_id} is completed. {outlook}")
        screen.say(f"Completed. {outlook} Ctrl-C ends the wait only.")
        return wait_until_exact(
            screen,
            lambda: source.request(request_id),
            lambda: source.jobs()["items"],
            check=lambda: require_running(worker),
        )


def _wait_until_completed(
    screen: Screen, source: Source, request_id: str, worker: Child | None
) -> Request:
    """Follow the request to its end, or raise CommandError if `worker` has failed."""
    told: set[str] = set()

    def read() -> dict[str, Any] | None:
        request = source.request(request_id)
        blocker = request["waits_for"]
        if blocker is not None and blocker["job"] not in told:
            told.add(blocker["job"])
            screen.say(f"  Waits for the end of the {job_name(blocker)}.")
        if request["status"] not in UNFINISHED:
            # The bar ends with the request, not with the job: both end in one transaction.
            return {"status": request["status"], "stage": "done", "progress": 1.0}
        job_id = request["job_id"]
        return {**source.progress_of(job_id), "status": ""} if job_id else None

    follow_job(
        screen,
        read,
        check=lambda: require_running(worker),
        until=lambda job: bool(job["status"]),
    )
    answer = source.request(request_id)
    if answer["status"] != "completed":
        raise CommandError(f"The request {request_id} is {answer['status']}. See: lethe jobs")
    return answer
