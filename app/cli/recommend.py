"""`lethe recommend`: get recommendations from the running service over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Service
from app.cli.failures import command
from app.cli.options import AsJson, Key, ServiceUrl, User
from app.cli.screen import Screen, table
from app.settings import get_settings

if TYPE_CHECKING:
    from rich.table import Table


@command
def recommend(
    user: User,
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="Number of items.")] = 10,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Get recommendations for a user from the running service."""
    screen = Screen.make(as_json=as_json)
    with Service.of(get_settings(), url, key) as service:
        answer = service.recommend(user, n)
    screen.listing(answer, recommendations_table(answer), f"  release {answer['release']}")


def recommendations_table(answer: dict[str, Any]) -> Table:
    """Return the recommended items with their scores."""
    rows = [(item["rank"], f"{item['score']:.3f}", item["title"]) for item in answer["items"]]
    return table("", "P(likes)", "title", rows=rows, numbers=(0, 1))
