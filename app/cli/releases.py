"""`lethe releases`: list the releases and the replicas that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli.failures import command
from app.cli.options import AsJson, Key, Url
from app.cli.screen import Screen, moment, table
from app.cli.source import open_source

if TYPE_CHECKING:
    from rich.table import Table


@command
def releases(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the releases and mark the live one."""
    screen = Screen.make(as_json=as_json)
    with open_source(url, key) as source:
        page = source.releases()
    notes = [] if page["items"] else ["No release yet. Run: lethe train"]
    screen.listing(page, _releases_table(page), *notes)


def _releases_table(page: dict[str, Any]) -> Table:
    rows = [
        (
            release["id"],
            release["status"],
            release["method"],
            release["outcome"] or "",
            release["parent"] or "",
            moment(release["created_at"]),
            "live" if release["id"] == page["live"] else "",
        )
        for release in page["items"]
    ]
    names = ("release", "status", "method", "batch audit", "parent", "created", "")
    return table(*names, rows=rows, whole=(0, 4))
