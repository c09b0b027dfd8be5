"""`lethe requests`: list, show, cancel, hold and release deletion requests; get certificates."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.cli.failures import BadInputError, command
from app.cli.jobs import job_name
from app.cli.options import AsJson, CertificateNumber, Key, Out, RequestedBy, TicketReference, Url
from app.cli.screen import STANDARD_OUTPUT, Screen, facts, table, write_file
from app.cli.source import open_source
from app.domain.requests import OPEN_STATUSES, Assurance, RequestStatus
from app.services.pagination import DEFAULT_LIMIT
from app.services.request_filters import RequestQuery

if TYPE_CHECKING:
    from rich.table import Table

Request = dict[str, Any]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The request's id.")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="Such as 2026-11-30T12:00:00Z.")]

requests = typer.Typer(
    no_args_is_help=True,
    help="List, show, cancel, hold and release deletion requests, and get their certificates.",
)


@requests.command("list")
@command
def list_all(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    status: Annotated[
        list[RequestStatus] | None, typer.Option(help="This status; may be repeated.")
    ] = None,
    assurance: Annotated[Assurance | None, typer.Option(help="What is proved so far.")] = None,
    overdue: Annotated[
        bool | None,
        typer.Option("--overdue/--not-overdue", help="Not completed, or not exact, in time."),
    ] = None,
    due_before: Time = None,
    created_after: Time = None,
    created_before: Time = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="About data of this user.")
    ] = None,
    requested_by: RequestedBy = None,
    reference: TicketReference = None,
    limit: Annotated[int, typer.Option(help="Requests per page.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, typer.Option(help="The cursor of the next page.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the deletion requests that meet all given conditions, newest first."""
    screen = Screen.make(as_json=as_json)
    query = RequestQuery(
        statuses=tuple(status or ()),
        assurance=assurance,
        overdue=overdue,
        due_before=_time("--due-before", due_before),
        created_after=_time("--created-after", created_after),
        created_before=_time("--created-before", created_before),
        user_id=user,
        requested_by=requested_by,
        reference=reference,
    )
    with open_source(url, key) as source:
        page = source.requests(query, limit, cursor)
    rest = f" The next page: --cursor {page['next_cursor']}" if page["next_cursor"] else ""
    count = f"{len(page['items'])} of {page['total']} requests.{rest}"
    screen.listing(page, _requests_table(page["items"]), count)


@requests.command("show")
@command
def show(request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show a deletion request, what its audit shows, and what it waits for."""
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        request = source.request(request_id)
    finding = [] if request["finding"] is None else [Text(request["finding"]["sentence"])]
    blocker = request["waits_for"]
    waits = [] if blocker is None else [f"Waits for the end of the {job_name(blocker)}."]
    left_out = {"finding", "waits_for"}
    shown = {name: value for name, value in request.items() if name not in left_out}
    screen.result(request, facts(shown), *finding, *waits)


@requests.command("cancel")
@command
def cancel(
    request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Cancel a scheduled deletion request and end the suppression of its subject."""
    _change("cancel", request_id, url, key, as_json=as_json)


@requests.command("hold")
@command
def hold(request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Put a scheduled deletion request on hold. Its subject stays suppressed."""
    _change("hold", request_id, url, key, as_json=as_json)


@requests.command("release")
@command
def release(
    request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Resume a deletion request that is on hold or dead."""
    _change("release", request_id, url, key, as_json=as_json)


@requests.command("certificate")
@command
def certificate(
    request_id: RequestId,
    number: CertificateNumber = None,
    out: Out = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Print the newest signed certificate of a completed deletion, for `lethe verify`."""
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        envelope = source.certificate(request_id, number)
    text = json.dumps(envelope, indent=2, ensure_ascii=False) + "\n"
    if out is None or out == STANDARD_OUTPUT:
        sys.stdout.write(text)  # JSON in both forms, because the certificate is a JSON document.
        return
    write_file(out, text)
    screen.result({"file": str(out)}, Text(f"The certificate is in {out}"))


def _change(
    change: str, request_id: str, url: str | None, key: str | None, *, as_json: bool
) -> None:
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        request = source.change_request(change, request_id)
    screen.result(request, f"The request {request_id} is {request['status']}.")


def _requests_table(items: list[Request]) -> Table:
    rows = [
        (
            request["id"],
            request["status"],
            request["assurance"],
            _day(request["created_at"]),
            _due(request),
            request["reference"] or "",
        )
        for request in items
    ]
    names = ("request", "status", "assurance", "created", "due", "reference")
    return table(*names, rows=rows, whole=(0,))


def _due(request: Request) -> str:
    """Return the day by which the request is to be completed, or exact; empty if it is."""
    if request["status"] in OPEN_STATUSES:
        return _day(request["due_at"])
    return _day(request["exact_due_at"]) if request["assurance"] == Assurance.APPROXIMATE else ""


def _day(time: str | None) -> str:
    return (time or "")[:10]


def _time(option: str, text: str | None) -> datetime | None:
    """Return the time of an option, which must have a time zone; raises BadInputError."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise BadInputError(
            f"{option} must be a time with a time zone, such as 2026-11-30T12:00:00Z."
        )
    return time
