"""The dashboard's files, and the descriptions of the API and of the problem types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import FileResponse

from app.api.problems import KINDS

router = APIRouter(include_in_schema=False)

_WEB: Final = Path(__file__).parents[2] / "web"
_FILES: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
#: Only the service's own files and calls; no inline script, no frame, no other host.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}


@router.get("/")
def dashboard() -> FileResponse:
    """Return the dashboard page, which contains no data."""
    return FileResponse(_WEB / "dashboard.html", media_type="text/html", headers=_HEADERS)


@router.get("/web/{name}")
def file(name: str) -> FileResponse:
    """Return one of the dashboard's files."""
    if name not in _FILES:
        raise HTTPException(404)
    return FileResponse(_WEB / name, media_type=_FILES[name], headers=_HEADERS)


@router.get("/openapi.json")
def openapi(request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/problems/{code}")
def problem_kind(code: str) -> dict[str, str | int]:
    """Describe a problem type."""
    kind = KINDS.get(code)
    if kind is None:
        raise HTTPException(404)
    return {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "meaning": kind.meaning,
    }
