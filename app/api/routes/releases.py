"""Releases and the replicas that serve them: list."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.dependencies import DEFAULT_PAGE, Cursor, Limit, Reading
from app.api.responses import problems
from app.api.schemas.releases import ReleasePage, ReplicaAnswer
from app.services.pagination import list_releases

router = APIRouter(prefix="/releases", tags=["releases"])


@router.get("", responses=problems("invalid-input"))
def list_all(uow: Reading, limit: Limit = DEFAULT_PAGE, cursor: Cursor = None) -> ReleasePage:
    """List releases, newest first, with the live release and all replicas."""
    page = list_releases(uow, limit, cursor)
    now = uow.state.now()
    replicas = [ReplicaAnswer.of(replica, now) for replica in uow.replicas.all()]
    return ReleasePage.of(page.items, page.next_cursor, uow.releases.alias(), replicas)
