"""Record the deletions of several users, with one outcome for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.cli.client import ServiceError
from app.cli.failures import CommandError
from app.cli.screen import table
from app.domain.errors import LedgerDamagedError, LetheError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.table import Table

    from app.cli.source import Source
    from app.services.forget import ForgetCommand

Request = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the deletion of one user: a request, or an error, or both after a wait."""

    user_id: str
    request: Request | None = None
    #: Whether this call recorded the request; False if an earlier request covers the deletion.
    created: bool = False
    error: LetheError | None = None

    @property
    def result(self) -> str:
        if self.error is not None:
            return "failed"
        return "recorded" if self.created else "covered"

    def to_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "user_id": self.user_id,
            "result": self.result,
            "request": self.request,
            "error": None if error is None else {"code": error.code, "message": str(error)},
        }


class NotTriedError(CommandError):
    """Not tried, because an earlier call failed: {reason}."""

    code = "not-tried"


def record_all(source: Source, commands: Iterable[ForgetCommand]) -> list[Outcome]:
    """Record the deletions, and return one outcome per command, in their order.

    A bad id fails alone. After an error that every further call would meet, such as a service that
    does not answer, the other deletions are not tried.
    """
    outage: LetheError | None = None
    outcomes = []
    for command in commands:
        user_id = command.user_id or ""
        try:
            if outage is not None:
                raise NotTriedError(reason=str(outage).rstrip("."))
            request, created = source.forget(command)
            outcomes.append(Outcome(user_id=user_id, request=request, created=created))
        except LetheError as error:
            outcomes.append(Outcome(user_id=user_id, error=error))
            if _is_outage(error):
                outage = error
    return outcomes


def wait_for_all(outcomes: Sequence[Outcome], wait: Callable[[Request], Request]) -> list[Outcome]:
    """Return the outcomes with the requests as they are after the wait."""
    waited = []
    for outcome in outcomes:
        try:
            request = None if outcome.request is None else wait(outcome.request)
            waited.append(replace(outcome, request=request))
        except LetheError as error:
            waited.append(replace(outcome, error=error))
    return waited


def outcomes_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the JSON document: the counts, and an entry per user."""
    results = [outcome.result for outcome in outcomes]
    counts = {result: results.count(result) for result in ("recorded", "covered", "failed")}
    return {**counts, "items": [outcome.to_json() for outcome in outcomes]}


def outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    """Return a row per user: id, result, request, its status, and the error."""
    rows = []
    for outcome in outcomes:
        request = outcome.request or {"id": "", "status": ""}
        error = "" if outcome.error is None else str(outcome.error)
        rows.append((outcome.user_id, outcome.result, request["id"], request["status"], error))
    return table("user", "result", "request", "status", "error", rows=rows, whole=(0, 2))


def _is_outage(error: LetheError) -> bool:
    """Return whether the error is about the service or the installation, not about one user."""
    if isinstance(error, ServiceError):
        return error.status in {401, 403, 421, 429} or error.status >= 500  # noqa: PLR2004
    return isinstance(error, CommandError | UnavailableError | LedgerDamagedError)
