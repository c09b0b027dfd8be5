"""Catalog items: add, change, list, read and withdraw."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Body, status

from app.api.dependencies import (
    DEFAULT_PAGE,
    Cursor,
    Forgotten,
    ItemPath,
    Limit,
    Reading,
    TheGateway,
    Writing,
)
from app.api.edge import BY_ID
from app.api.responses import problems
from app.api.schemas.common import StoredAnswer
from app.api.schemas.items import (
    ItemAnswer,
    ItemBody,
    ItemPage,
    WithdrawBody,
    WithdrawnAnswer,
)
from app.services.items import list_items, read_item, store_items, withdraw_items

router = APIRouter(prefix="/items", tags=["items"])
#: Paths of the query forms: an id that ends in "/similar" is no query about another id here.
by_id = APIRouter(prefix=BY_ID, include_in_schema=False)


@router.post(
    "",
    response_model_exclude_defaults=True,
    responses=problems("forgotten", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def store(
    body: Annotated[list[ItemBody], Body(min_length=1, max_length=10_000)],
    gateway: TheGateway,
    uow: Writing,
    tasks: BackgroundTasks,
    forgotten: Forgotten = "refuse",
) -> StoredAnswer:
    """Add or change items, either all or none. A withdrawn item becomes available again."""
    skip = forgotten == "skip"
    items = [entry.new_item() for entry in body]
    outcomes = store_items(uow, gateway.pseudonyms, items, skip_forgotten=skip)
    tasks.add_task(gateway.replica.data_changed)
    return StoredAnswer.of(outcomes, with_outcomes=skip)


@router.post(
    "/withdraw",
    responses=problems("unknown-item", "invalid-input", "body-too-large", "unsupported-media-type"),
)
def withdraw_many(
    body: WithdrawBody, gateway: TheGateway, uow: Writing, tasks: BackgroundTasks
) -> WithdrawnAnswer:
    """Withdraw items, either all or none. Their ratings stay and nothing is unlearned."""
    withdrawn = withdraw_items(uow, body.item_ids)
    tasks.add_task(gateway.replica.data_changed)
    return WithdrawnAnswer(withdrawn=withdrawn)


@router.get("", responses=problems("invalid-input"))
def list_all(uow: Reading, limit: Limit = DEFAULT_PAGE, cursor: Cursor = None) -> ItemPage:
    """List all items ordered by id, including withdrawn items."""
    return ItemPage.of(list_items(uow, limit, cursor))


@by_id.get("/items/{item_id:path}")
@router.get("/{item_id:path}", responses=problems("unknown-item", "invalid-input"))
def read(item_id: ItemPath, uow: Reading) -> ItemAnswer:
    """Return an item."""
    return ItemAnswer.of(read_item(uow, item_id))


@by_id.delete("/items/{item_id:path}", status_code=status.HTTP_204_NO_CONTENT)
@router.delete(
    "/{item_id:path}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems("unknown-item", "invalid-input"),
)
def withdraw(item_id: ItemPath, gateway: TheGateway, uow: Writing, tasks: BackgroundTasks) -> None:
    """Withdraw an item. It is not recommended until it is posted again."""
    withdraw_items(uow, [item_id])
    tasks.add_task(gateway.replica.data_changed)
