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
