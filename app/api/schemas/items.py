"""JSON of catalog items, and the field types of titles and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints

from app.api.schemas.common import Answer, Body, Id
from app.domain.id_rules import (
    MAX_ATTRIBUTES,
    MAX_NAME_LENGTH,
    MAX_TITLE_LENGTH,
    MAX_VALUE_LENGTH,
    MAX_VALUES,
    check_text,
)

if TYPE_CHECKING:
    from app.domain.catalog import Item, NewItem
    from app.services.pagination import Page

Title = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_TITLE_LENGTH),
    AfterValidator(check_text),
]
AttributeName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(check_text)
]
AttributeValue = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_VALUE_LENGTH), AfterValidator(check_text)
]
AttributeValues = Annotated[list[AttributeValue], Field(max_length=MAX_VALUES)]


class ItemBody(Body):
    """Item; an attribute has one or several values: `{"genre": ["Comedy"], "year": "1995"}`."""

    item_id: Id
    title: Title
    attributes: Annotated[
        dict[AttributeName, AttributeValue | AttributeValues], Field(max_length=MAX_ATTRIBUTES)
    ] = Field(default_factory=dict)

    def new_item(self) -> NewItem:
        """Return the item with a list of values for every attribute."""
        attributes = {
            name: [value] if isinstance(value, str) else value
            for name, value in self.attributes.items()
        }
        return self.item_id, self.title, attributes


class WithdrawBody(Body):
    """Items to withdraw from the catalog."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)]


class WithdrawnAnswer(Answer):
    """Number of items that this call withdrew."""

    withdrawn: int


class ItemAnswer(Answer):
    """Item; `available` is false for a withdrawn item, which is never recommended."""

    item_id: str
    title: str
    attributes: dict[str, list[str]]
    available: bool

    @classmethod
    def of(cls, item: Item) -> Self:
        return cls(
            item_id=item.id,
            title=item.title,
            attributes=item.attributes,
            available=item.available,
        )


class ItemPage(Answer):
    """Items, ordered by id."""

    items: list[ItemAnswer]
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Item]) -> Self:
        return cls(items=[ItemAnswer.of(item) for item in page.items], next_cursor=page.next_cursor)
