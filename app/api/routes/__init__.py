"""One module per resource; `ROUTERS` is all of them."""

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
)

if TYPE_CHECKING:
    from fastapi import APIRouter

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    module.router
    for module in (
        forget,
        recommend,
        # Before the items, whose ids may contain slashes.
        similar,
        interactions,
        items,
        users,
        consents,
        jobs,
        releases,
        health,
        web,
    )
)
