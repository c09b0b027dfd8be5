"""`lethe requests`: list and show deletion requests; cancel, hold and release them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.api.schemas.forget import ForgetAnswer, ForgetPage
from app.cli.failures import BadInputError, command
from app.cli.installation import open_installation
from app.cli.jobs import job_name
from app.cli.options import AsJson, RequestedBy, TicketReference
from app.cli.screen import Screen, facts, table
from app.domain.requests import OPEN_STATUSES, Assurance, RequestStatus
from app.services.forget import cancel_forget, hold_forget, release_forget
from app.services.pagination import DEFAULT_LIMIT
from app.services.request_filters import RequestQuery
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from app.cli.installation import Installation
    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork

Request = dict[str, Any]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The request's id.")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="Such as 2026-11-30T12:00:00Z.")]

requests = typer.Typer(
    no_args_is_help=True, help="List and show deletion requests; cancel, hold and release them."
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
    with open_installation(get_settings()) as installation:
        page = _read_page(installation, query, limit, cursor)
    rest = f" The next page: --cursor {page['next_cursor']}" if page["next_cursor"] else ""
    count = f"{len(page['items'])} of {page['total']} requests.{rest}"
    screen.result(page, *([_requests_table(page["items"])] if page["items"] else []), count)


@requests.command("show")
@command
def show(request_id: RequestId, as_json: AsJson = False) -> None:
    """Show a deletion request, what its audit shows, and what it waits for."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation:
        request = read_request(installation, request_id)
    finding = [] if request["finding"] is None else [Text(request["finding"]["sentence"])]
    blocker = request["waits_for"]
    waits = [] if blocker is None else [f"Waits for the end of the {job_name(blocker)}."]
    left_out = {"finding", "waits_for"}
    shown = {name: value for name, value in request.items() if name not in left_out}
    screen.result(request, facts(shown), *finding, *waits)


@requests.command("cancel")
@command
def cancel(request_id: RequestId, as_json: AsJson = False) -> None:
    """Cancel a scheduled deletion request and end the suppression of its subject."""
    _change(cancel_forget, request_id, as_json=as_json)


@requests.command("hold")
@command
def hold(request_id: RequestId, as_json: AsJson = False) -> None:
    """Put a scheduled deletion request on hold. Its subject stays suppressed."""
    _change(hold_forget, request_id, as_json=as_json)


@requests.command("release")
@command
def release(request_id: RequestId, as_json: AsJson = False) -> None:
    """Resume a deletion request that is on hold or dead."""
    _change(release_forget, request_id, as_json=as_json)


def read_request(installation: Installation, request_id: str) -> Request:
    """Return the deletion request in the form of the API's JSON."""
    with installation.uow(write=False) as uow:
        request = uow.requests.get(request_id)
        (answer,) = ForgetAnswer.read(uow, [request], installation.settings.exact)
    return answer.model_dump(mode="json")


def _change(
    change: Callable[[UnitOfWork, str], ForgetRequest], request_id: str, *, as_json: bool
) -> None:
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation:
        with installation.uow() as uow:
            change(uow, request_id)
        request = read_request(installation, request_id)
    screen.result(request, f"The request {request_id} is {request['status']}.")


def _read_page(
    installation: Installation, query: RequestQuery, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return a page of the list in the form of the API's JSON."""
    matching = query.filter(installation.pseudonyms, installation.settings)
    with installation.uow(write=False) as uow:
        answer = ForgetPage.read(uow, installation.settings.exact, matching, limit, cursor)
    return answer.model_dump(mode="json")


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
    result = table("request", "status", "assurance", "created", "due", "reference", rows=rows)
    result.columns[0].no_wrap = True  # In a narrow output, such as a pipe, ids stay whole.
    return result


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
