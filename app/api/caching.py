"""Entity tags (RFC 9110), so that an unchanged answer is not computed again."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Header, Response, status
from pydantic import BaseModel, BeforeValidator, WithJsonSchema

_MAX_LENGTH: Final = 4096
#: Only the browser caches, and it revalidates every time: a deletion must take effect at once.
_CACHE_CONTROL: Final = "private, no-cache"


def _parse_tags(value: object) -> object:
    """Return the entity tags in the header lines; weak tags count as strong, `*` is ignored."""
    lines = value if isinstance(value, list) else []
    parts = ",".join(map(str, lines))[:_MAX_LENGTH].split(",")
    tags = (part.strip().removeprefix("W/") for part in parts)
    return frozenset(tag for tag in tags if tag.startswith('"'))


IfNoneMatch = Annotated[
    frozenset[str] | None,
    BeforeValidator(_parse_tags),
    # Generators of clients do not know headers that are lists.
    WithJsonSchema({"type": "string"}),
    Header(alias="If-None-Match", description="The `ETag` of a cached answer."),
]


def set_cache_headers(response: Response, tag: str | None = None) -> None:
    """Set Cache-Control and, with a tag, ETag."""
    response.headers["Cache-Control"] = _CACHE_CONTROL
    if tag is not None:
        response.headers["ETag"] = tag


def answered(body: BaseModel, tag: str | None = None) -> Response:
    """Return the answer as JSON without default values.

    FastAPI would validate the body, which is valid by its construction, a second time.
    """
    response = Response(body.model_dump_json(exclude_defaults=True), media_type="application/json")
    set_cache_headers(response, tag)
    return response


def not_modified(tag: str) -> Response:
    """Return a 304 response for a cached answer that is still valid."""
    response = Response(status_code=status.HTTP_304_NOT_MODIFIED)
    set_cache_headers(response, tag)
    return response
