"""The JSON of items and users as they are added, changed, shown and removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AfterValidator, Field, StringConstraints

from app.api.dependencies import Id, printable
from app.api.schemas import Answer, Body, ForgetAnswer
from app.domain.catalog import User

if TYPE_CHECKING:
    from app.domain.catalog import Item, NewItem
    from app.services.pagination import Page
    from app.services.users import Person

_MAX_TITLE: Final = 500
_MAX_NAME: Final = 64
_MAX_VALUE: Final = 200
_MAX_ATTRIBUTES: Final = 32
_MAX_VALUES: Final = 32

Title = Annotated[
    str, StringConstraints(min_length=1, max_length=_MAX_TITLE), AfterValidator(printable)
]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=_MAX_NAME), AfterValidator(printable)
]
Value = Annotated[
    str, StringConstraints(min_length=1, max_length=_MAX_VALUE), AfterValidator(printable)
]
Values = Annotated[list[Value], Field(max_length=_MAX_VALUES)]
#: How many entries one call may have.
ManyIds = Annotated[list[Id], Field(min_length=1, max_length=10_000)]
ManyPeople = Annotated[list[Id], Field(min_length=1, max_length=1_000)]


class ItemBody(Body):
    """An item; an attribute has one value or several: `{"genre": ["Comedy"], "year": "1995"}`."""

    item_id: Id
    title: Title
    attributes: Annotated[dict[Name, Value | Values], Field(max_length=_MAX_ATTRIBUTES)] = Field(
        default_factory=dict
    )

    def new_item(self) -> NewItem:
        """Return it as the catalogue takes it: every attribute with a list of values."""
        attributes = {
            name: [value] if isinstance(value, str) else value
            for name, value in self.attributes.items()
        }
        return self.item_id, self.title, attributes


class UserBody(Body):
    """A user with whatever attributes are known: `{"gender": "F"}`."""

    user_id: Id
    attributes: Annotated[dict[Name, Value], Field(max_length=_MAX_ATTRIBUTES)] = Field(
        default_factory=dict
    )

    def user(self) -> User:
        """Return it in the words of the domain."""
        return User(id=self.user_id, attributes=self.attributes)


class WithdrawBody(Body):
    """Items to be taken off the shelf."""

    item_ids: ManyIds


class ForgetUsersBody(Body):
    """People to be forgotten."""

    user_ids: ManyPeople


class WithdrawnAnswer(Answer):
    """How many items are off the shelf by this call."""

    withdrawn: int


class ItemAnswer(Answer):
    """An item; where `available` is false it is withdrawn: never recommended, its ratings kept."""

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
    """Items in order of id."""

    items: list[ItemAnswer]
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Item]) -> Self:
        return cls(items=[ItemAnswer.of(item) for item in page.items], next_cursor=page.next_cursor)


class UserAnswer(Answer):
    """What is held about somebody; `interactions` is how many."""

    user_id: str
    attributes: dict[str, str]
    interactions: int

    @classmethod
    def of(cls, person: Person) -> Self:
        return cls(
            user_id=person.user.id,
            attributes=person.user.attributes,
            interactions=person.interactions,
        )


class ForgetUsersAnswer(Answer):
    """One deletion request for each person, in the order asked."""

    items: list[ForgetAnswer]
