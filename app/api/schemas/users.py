"""JSON of users and of their ratings."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, Field

from app.api.schemas.common import Answer, Body, Id
from app.api.schemas.items import AttributeName, AttributeValue
from app.domain.catalog import Interaction, User
from app.domain.id_rules import MAX_ATTRIBUTES

if TYPE_CHECKING:
    from app.services.users import Erasure, Person


def _no_truth_value(value: object) -> object:
    """Refuse a truth value, which pydantic would read as 1 or 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports ValueError only
    return value


#: 0.5 to 5 stars in half stars.
Stars = Annotated[float, BeforeValidator(_no_truth_value), Field(ge=0.5, le=5, multiple_of=0.5)]


class InteractionBody(Body):
    """Rating of 0.5 to 5 stars in half stars; `timestamp` is in Unix seconds."""

    user_id: Id
    item_id: Id
    rating: Stars
    timestamp: Annotated[int, BeforeValidator(_no_truth_value), Field(ge=0)]

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


class ErasureAnswer(Answer):
    """Whether a user is forgotten, and what the request that forgets the user has reached.

    `since`: no recommendation uses the user from this time on; null for a user who is not
    forgotten. The other fields are about the request. After a consent, `forgotten` is false, and
    the request is the last one before the consent. Without a request, the fields are null.
    """

    forgotten: bool
    since: datetime | None
    request_id: str | None = None
    status: str | None = None
    #: `none` until completion, then `approximate` or `exact`.
    assurance: str | None = None
    completed_at: datetime | None = None
    exact_due_at: datetime | None = None
    exact_at: datetime | None = None

    @classmethod
    def of(cls, erasure: Erasure) -> Self:
        answer = cls(forgotten=erasure.forgotten, since=erasure.since)
        request = erasure.request
        if request is None:
            return answer
        names = ("status", "assurance", "completed_at", "exact_due_at", "exact_at")
        values = {name: getattr(request, name) for name in names}
        return answer.model_copy(update={"request_id": request.id, **values})


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
