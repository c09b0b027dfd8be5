"""The routes of the REST API, one module per resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from app.api.routes import (
    consents,
    forget,
    forget_events,
    health,
    interactions,
    items,
    jobs,
    recommend,
    releases,
    similar,
    users,
    web,
    well_known,
)

if TYPE_CHECKING:
    from fastapi import APIRouter

ROUTERS: Final[tuple[APIRouter, ...]] = (
    items.by_id,
    similar.by_id,
    users.by_id,
    *(
        module.router
        for module in (
            forget,
            forget_events,
            recommend,
            # Before `items`, where an item id may contain slashes and would match this path.
            similar,
            interactions,
            items,
            users,
            consents,
            jobs,
            releases,
            health,
            web,
            well_known,
        )
    ),
)

#: Path template and methods of every route.
ROUTES: Final = tuple(
    (route.path, frozenset(route.methods or ()))
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, Route)
)
