"""The routes of the REST API, one module per resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.api.routes import (
    consents,
    forget,
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

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    module.router
    for module in (
        forget,
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
)
