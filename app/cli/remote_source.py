"""A running service as a source of the commands: calls the REST API."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from app.cli.failures import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.cli.client import Service
    from app.services.forget import ForgetCommand
    from app.services.request_filters import RequestQuery

Document = dict[str, Any]


class RemoteSource:
    """See `Source`."""

    installation: None = None
    exact: None = None

    def __init__(self, service: Service) -> None:
        self._service = service

    def forget(self, command: ForgetCommand) -> tuple[Document, bool]:
        attribution = command.attribution
        body = {
            "user_id": command.user_id,
            "item_ids": list(command.item_ids) or None,
            "suppress_unknown": command.suppress_unknown,
            "requested_by": attribution.requested_by,
            "reason": attribution.reason.value,
            "reference": attribution.reference,
        }
        given = {name: value for name, value in body.items() if value is not None}
        status, answer = self._service.answer("POST", "/forget", json=given)
        return answer, status == HTTPStatus.ACCEPTED

    def consent(self, user_id: str, item_ids: Sequence[str]) -> int:
        body = {"user_id": user_id, **({"item_ids": list(item_ids)} if item_ids else {})}
        answer: Document = self._service.call("POST", "/consents", json=body)
        return int(answer["lifted"])

    def requests(self, query: RequestQuery, limit: int, cursor: str | None) -> Document:
        page: Document = self._service.get(
            "/forget",
            status=[status.value for status in query.statuses] or None,
            assurance=None if query.assurance is None else query.assurance.value,
            overdue=None if query.overdue is None else str(query.overdue).lower(),
            due_before=_text(query.due_before),
            created_after=_text(query.created_after),
            created_before=_text(query.created_before),
            user_id=query.user_id,
            requested_by=query.requested_by,
            reference=query.reference,
            limit=limit,
            cursor=cursor,
        )
        return page

    def request(self, request_id: str) -> Document:
        return dict(self._service.get(_path("forget", request_id)))

    def change_request(self, change: str, request_id: str) -> Document:
        path = _path("forget", request_id)
        if change == "cancel":
            return dict(self._service.call("DELETE", path))
        return dict(self._service.call("POST", f"{path}/{change}"))

    def certificate(self, request_id: str, number: int | None) -> Document:
        path = f"{_path('forget', request_id)}/certificate"
        return dict(self._service.get(path, number=number))

    def jobs(self) -> Document:
        return dict(self._service.get("/jobs"))

    def job(self, job_id: str) -> Document:
        return dict(self._service.get(_path("jobs", job_id)))

    def progress_of(self, job_id: str) -> Document:
        return self.job(job_id)

    def cancel_job(self, job_id: str) -> Document:
        return dict(self._service.call("POST", f"{_path('jobs', job_id)}/cancel"))

    def waiting(self) -> int:
        page = self._service.get("/forget", status="scheduled", limit=1)
        return int(page["total"] or 0)

    def releases(self) -> Document:
        return dict(self._service.get("/releases"))

    def keys(self) -> Document:
        return dict(self._service.get("/.well-known/lethe-keys"))


def _path(collection: str, entry_id: str) -> str:
    """Return the path of an entry; raises BadInputError for a text that leads to another path."""
    if entry_id in {"", ".", ".."}:
        raise BadInputError(f"{entry_id!r} is no id. Copy the id from the list.")
    return f"/{collection}/{quote(entry_id, safe='')}"


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
