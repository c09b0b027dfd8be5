"""The OpenAPI document: names of operations on which generated clients rely, and access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.api.auth import PUBLIC_PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from fastapi.routing import APIRoute

#: Method and path of each route → the operation's id. Generated clients name their functions after
#: these ids, so that an id never changes.
_OPERATION_IDS: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/forget"): "create_deletion_request",
    ("GET", "/forget"): "list_deletion_requests",
    ("GET", "/forget/{request_id}"): "get_deletion_request",
    ("DELETE", "/forget/{request_id}"): "cancel_deletion_request",
    ("POST", "/forget/{request_id}/hold"): "hold_deletion_request",
    ("POST", "/forget/{request_id}/release"): "release_deletion_request",
    ("GET", "/forget/{request_id}/events"): "follow_deletion_request",
    ("POST", "/forget/bulk"): "create_deletion_list",
    ("GET", "/forget/bulk/{list_id}"): "get_deletion_list",
    ("GET", "/forget/bulk/{list_id}/results"): "list_deletion_results",
    ("GET", "/forget/{request_id}/certificate"): "get_certificate",
    ("GET", "/forget/{request_id}/certificate.html"): "get_certificate_page",
    ("GET", "/forget/{request_id}/certificates"): "list_certificates",
    ("GET", "/recommend/{user_id}"): "recommend",
    ("POST", "/recommend"): "rank",
    ("POST", "/recommend/batch"): "recommend_to_several",
    ("GET", "/items/{item_id}/similar"): "list_similar_items",
    ("POST", "/interactions"): "add_interactions",
    ("POST", "/items"): "store_items",
    ("GET", "/items"): "list_items",
    ("GET", "/items/{item_id}"): "get_item",
    ("DELETE", "/items/{item_id}"): "withdraw_item",
    ("POST", "/items/withdraw"): "withdraw_items",
    ("POST", "/users"): "store_users",
    ("GET", "/users/{user_id}"): "get_user",
    ("DELETE", "/users/{user_id}"): "forget_user",
    ("POST", "/users/forget"): "forget_users",
    ("GET", "/users/{user_id}/erasure"): "get_erasure",
    ("POST", "/consents"): "store_consent",
    ("GET", "/jobs"): "list_jobs",
    ("GET", "/jobs/{job_id}"): "get_job",
    ("POST", "/jobs/{job_id}/cancel"): "cancel_job",
    ("GET", "/releases"): "list_releases",
    ("GET", "/healthz"): "get_health",
    ("GET", "/readyz"): "get_readiness",
    ("GET", "/metrics"): "get_metrics",
    ("GET", "/.well-known/lethe-keys"): "list_public_keys",
}
_SCHEME: Final = "api_key"


def operation_id(route: APIRoute) -> str:
    """Return the operation id of a route; raises LookupError for a route without an id."""
    (method,) = sorted(route.methods or ())
    if not route.include_in_schema:
        return f"{method} {route.path}"
    try:
        return _OPERATION_IDS[method, route.path_format]
    except KeyError:
        raise LookupError(
            f"{method} {route.path_format} has no operation id. Add the id to app/api/openapi.py."
        ) from None


def install(app: FastAPI) -> None:
    """Add the access by API key to the application's OpenAPI document."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemes = document["components"].setdefault("securitySchemes", {})
        if _SCHEME not in schemes:
            schemes[_SCHEME] = {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of `LETHE_API_KEYS`. A service without keys answers local "
                "callers only, and needs none.",
            }
            document["security"] = [{_SCHEME: []}]
            for path in PUBLIC_PATHS & document["paths"].keys():
                document["paths"][path]["get"]["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
