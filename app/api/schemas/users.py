"""JSON of users and of their ratings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from app.api.schemas.common import Answer, Body, Id
from app.api.schemas.items import MAX_ATTRIBUTES, AttributeName, AttributeValue
from app.domain.catalog import Interaction, User

if TYPE_CHECKING:
    from app.services.users import Person

#: 0.5 to 5 stars in half stars.
Stars = Annotated[float, Field(ge=0.5, le=5, multiple_of=0.5)]


class InteractionBody(Body):
    """Rating of 0.5 to 5 stars in half stars; `timestamp` is in Unix seconds."""

    user_id: Id
    item_id: Id
    rating: Stars
    timestamp: Annotated[int, Field(ge=0)]

    def interaction(self) -> Interaction:
        return Interaction(**self.model_dump())


class UserBody(Body):
    """User with the known attributes: `{"gender": "F"}`."""

    user_id: Id
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(max_length=MAX_ATTRIBUTES)] = (
        Field(default_factory=dict)
    )

    def user(self) -> User:
        return User(id=self.user_id, attributes=self.attributes)


class UserAnswer(Answer):
    """Stored data about a user; `interactions` is their number."""

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
