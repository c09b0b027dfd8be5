"""The filters of `GET /forget`."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Query
from pydantic import AwareDatetime, BeforeValidator

from app.api.dependencies import TheGateway
from app.api.schemas.common import PathId, Reference
from app.domain.requests import Assurance, RequestFilter, RequestStatus
from app.services.request_filters import RequestQuery

_YEAR: Final = re.compile(r"\d{4}-")


def _with_date(text: object) -> object:
    """Return the text, or raise ValueError: pydantic would take a number as Unix seconds."""
    if isinstance(text, str) and not _YEAR.match(text):
        raise ValueError("must be a time with a time zone, such as 2026-11-30T12:00:00Z")
    return text


_Time = Annotated[AwareDatetime, BeforeValidator(_with_date)]


def _filter(  # noqa: PLR0913, PLR0917 -- each is a parameter of the call
    gateway: TheGateway,
    status: Annotated[
        tuple[RequestStatus, ...], Query(description="May be repeated: any of these statuses.")
    ] = (),
    assurance: Annotated[Assurance | None, Query(description="What is proved so far.")] = None,
    overdue: Annotated[
        bool | None,
        Query(description="Not completed after `due_at`, or not exact after `exact_due_at`."),
    ] = None,
    due_before: Annotated[
        _Time | None,
        Query(description="Open, or not exact yet, and due before this time."),
    ] = None,
    created_after: Annotated[_Time | None, Query(description="Created after this time.")] = None,
    created_before: Annotated[_Time | None, Query(description="Created before this time.")] = None,
    user_id: Annotated[
        PathId | None, Query(description="All requests for data of this user.")
    ] = None,
    requested_by: Annotated[Reference | None, Query(description="Requested by this party.")] = None,
    reference: Annotated[Reference | None, Query(description="Has this reference.")] = None,
) -> RequestFilter:
    query = RequestQuery(
        statuses=status,
        assurance=assurance,
        overdue=overdue,
        due_before=due_before,
        created_after=created_after,
        created_before=created_before,
        user_id=user_id,
        requested_by=requested_by,
        reference=reference,
    )
    return query.filter(gateway.pseudonyms, gateway.settings)


Matching = Annotated[RequestFilter, Depends(_filter)]
