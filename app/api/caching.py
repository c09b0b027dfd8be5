"""Entity tags (RFC 9110): an answer that a caller holds already is not computed again."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Header, Response, status
from pydantic import BeforeValidator

_MAX_LENGTH: Final = 4096
#: Kept by the browser alone, and asked about every time: a deletion must be seen at once.
_CACHE_CONTROL: Final = "private, no-cache"


def _tags(value: object) -> object:
    """Return the tags in a header's lines; weak ones compare like strong ones, `*` names none."""
    lines = value if isinstance(value, list) else []
    parts = ",".join(map(str, lines))[:_MAX_LENGTH].split(",")
    tags = (part.strip().removeprefix("W/") for part in parts)
    return frozenset(tag for tag in tags if tag.startswith('"'))


IfNoneMatch = Annotated[
    frozenset[str] | None,
    BeforeValidator(_tags),
    Header(alias="If-None-Match", description="The `ETag` of an answer held already."),
]


def answered(response: Response, tag: str | None = None) -> None:
    """Say how long an answer may be kept, and what it is known by."""
    response.headers["Cache-Control"] = _CACHE_CONTROL
    if tag is not None:
        response.headers["ETag"] = tag


def not_modified(tag: str) -> Response:
    """Answer that what the caller holds is still the answer."""
    response = Response(status_code=status.HTTP_304_NOT_MODIFIED)
    answered(response, tag)
    return response
