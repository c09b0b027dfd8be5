"""`lethe releases`: list the releases and the replicas that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.schemas.releases import ReleasePage, ReplicaAnswer
from app.cli.failures import command
from app.cli.installation import open_installation
from app.cli.options import AsJson
from app.cli.screen import Screen, moment, table
from app.services.pagination import list_releases
from app.settings import get_settings

if TYPE_CHECKING:
    from rich.table import Table


@command
def releases(as_json: AsJson = False) -> None:
    """List the releases and mark the live one."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation, installation.uow(write=False) as uow:
        page = list_releases(uow)
        now = uow.state.now()
        replicas = [ReplicaAnswer.of(replica, now) for replica in uow.replicas.all()]
        answer = ReleasePage.of(page.items, page.next_cursor, uow.releases.alias(), replicas)
    document = answer.model_dump(mode="json")
    text = _releases_table(document) if document["items"] else "No release yet. Run: lethe train"
    screen.result(document, text)


def _releases_table(page: dict[str, Any]) -> Table:
    rows = [
        (
            "→" if release["id"] == page["live"] else "",
            release["id"],
            release["status"],
            release["method"],
            release["outcome"] or "",
            release["parent"] or "",
            moment(release["created_at"]),
        )
        for release in page["items"]
    ]
    return table("", "release", "status", "method", "batch audit", "parent", "created", rows=rows)
