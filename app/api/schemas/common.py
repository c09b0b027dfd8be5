"""Base classes and field types that the schemas share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from app.domain.catalog import EntryOutcome
from app.domain.id_rules import MAX_ID_LENGTH, MAX_REFERENCE_LENGTH, normal_id, normal_reference

if TYPE_CHECKING:
    from collections.abc import Sequence


def printable(value: str) -> str:
    """Return the value; raises ValueError for control characters, which databases refuse."""
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


def _decimal_text(value: object) -> object:
    """Return an integer as its decimal text; raises ValueError for other numbers."""
    if isinstance(value, (bool, float)):
        raise ValueError("send ids as strings")  # noqa: TRY004 - pydantic reports ValueError only
    return str(value) if isinstance(value, int) else value


def _checked_id(value: str) -> str:
    """Return the id as the caller wrote it, if the id has a normal form; raises ValueError.

    The services normalize: only they know the id rule, and older tombstones need the spelling.
    """
    normal_id(value)
    return value


#: A name that callers choose for a call, such as an idempotency key.
Token = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_LENGTH),
    AfterValidator(printable),
]
#: The id of a user or an item in a path.
PathId = Annotated[str, AfterValidator(_checked_id)]
#: The id of a user or an item in a body.
Id = Annotated[
    str,
    BeforeValidator(_decimal_text),
    AfterValidator(_checked_id),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
                {"type": "integer"},
            ]
        },
        mode="validation",
    ),
]


#: A text that the caller gives a deletion request, such as a ticket number.
Reference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_REFERENCE_LENGTH),
    AfterValidator(normal_reference),
]


class Body(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(from_attributes=True)


class StoredAnswer(Answer):
    """Number of entries that were stored, and of those that were not, by reason.

    `older`: a later rating of the item is stored or in the same call. `replaced`: a later entry of
    the call has the same id, or the same user, item and time.
    """

    stored: int
    older: int = 0
    replaced: int = 0
    forgotten: int = 0
    outcomes: list[EntryOutcome] | None = Field(
        default=None, description="With `forgotten=skip`: one outcome per entry, in their order."
    )

    @classmethod
    def of(cls, outcomes: Sequence[EntryOutcome], *, with_outcomes: bool) -> Self:
        counts = Counter(outcome.value for outcome in outcomes)
        return cls(
            stored=counts.pop("stored", 0),
            outcomes=list(outcomes) if with_outcomes else None,
            **counts,
        )


class HealthAnswer(Answer):
    """`ok`, or `not ready` with the reasons."""

    status: str
    reasons: list[str] = Field(default_factory=list)


class ProblemDocument(Answer):
    """Problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, Any]] | None = None
