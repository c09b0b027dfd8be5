"""Refuse query parameters that a route does not have, and repeated ones.

A misspelled filter that is ignored would silently answer with everything, and of two values FastAPI
would silently take the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant

#: Calls of load balancers, monitoring and browsers, which add parameters of their own.
_LENIENT: Final = frozenset({"/", "/healthz", "/readyz", "/metrics"})
#: The largest number of unknown names in an answer: a query may have thousands.
_MAX_UNKNOWN: Final = 10


async def check_query_parameters(request: Request) -> None:
    """Raise RequestValidationError for query parameters that are unknown or repeated.

    This is a dependency of the application, so every route has it. The error of an unknown
    parameter names the nearest parameter of the route.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute) or route.path in _LENIENT:
        return
    known = _parameters(route.dependant)
    counts = Counter(name for name, _ in request.query_params.multi_items())
    unknown = sorted(counts.keys() - known.keys())
    repeated = sorted(name for name, is_list in known.items() if counts[name] > 1 and not is_list)
    errors = [
        {"type": "repeated_parameter", "loc": ("query", name), "msg": "Give this parameter once."}
        for name in repeated
    ]
    errors += [
        {"type": "unknown_parameter", "loc": ("query", name), "msg": _message(name, sorted(known))}
        for name in unknown[:_MAX_UNKNOWN]
    ]
    if errors:
        raise RequestValidationError(errors)


def _message(name: str, known: list[str]) -> str:
    if not known:
        return "This call has no query parameters."
    (nearest,) = get_close_matches(name, known, n=1, cutoff=0.0)
    return (
        f"This call has no such query parameter. The nearest one is `{nearest}`; "
        f"all are: {', '.join(known)}."
    )


def _parameters(dependant: Dependant) -> dict[str, bool]:
    """Return the query parameters of a route or dependency and of those below it.

    Each name has whether the parameter may be repeated.
    """
    parameters = {
        field.alias: get_origin(field.field_info.annotation) in {Sequence, list, tuple}
        for field in dependant.query_params
    }
    for dependency in dependant.dependencies:
        parameters |= _parameters(dependency)
    return parameters
