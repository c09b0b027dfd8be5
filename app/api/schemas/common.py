"""Base classes and field types that the schemas share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.services.validation import MAX_ID_LENGTH


def printable(value: str) -> str:
    """Return the value; raises ValueError for control characters, which databases refuse."""
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    return value


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_LENGTH),
    AfterValidator(printable),
]


class Body(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(from_attributes=True)


class StoredAnswer(Answer):
    """Number of entries added or replaced."""

    stored: int


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
