"""The problem responses of routes in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from app.api.problems import KINDS, MEDIA_TYPE, ProblemKind
from app.api.schemas.common import ProblemDocument
from app.domain.errors import UnauthorizedError

#: Problem codes that every route can return.
_COMMON_CODES: Final = (
    UnauthorizedError.code,
    "forbidden",
    "misdirected",
    "internal",
    "database-unavailable",
)


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route that can fail with these problem codes."""
    by_status: dict[int, list[ProblemKind]] = {}
    for code in (*codes, *_COMMON_CODES):
        by_status.setdefault(KINDS[code].status, []).append(KINDS[code])
    return {
        status: {
            "model": ProblemDocument,
            "description": ", ".join(f"{kind.title} (`{kind.type}`)" for kind in kinds),
            "content": {
                MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}},
            },
        }
        for status, kinds in by_status.items()
    }
