"""The JSON of recommendations."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from app.api.dependencies import Id
from app.api.problems import kind_of
from app.api.schemas import Answer, Body
from app.domain.errors import LetheError
from app.domain.recommendations import (
    MAX_EXPLAINED,
    MAX_RANKED,
    MAX_USERS,
    AttributeFilter,
    RankedBy,
    Recommendation,
    RecommendationQuery,
    Similar,
    Visitor,
)

MAX_N = 100
MAX_OFFSET = 100_000
MAX_DEADLINE_MS = 60_000
_MAX_FILTERS = 20
_MAX_VALUES = 100
_MAX_HISTORY = 1000
_MAX_ATTRIBUTES = 50

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Filters = Annotated[
    dict[Name, Annotated[list[Name], Field(min_length=1, max_length=_MAX_VALUES)]],
    Field(max_length=_MAX_FILTERS, description="Attribute → values, one of which must be there."),
]
N = Annotated[int, Field(ge=1, le=MAX_N)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
DeadlineMs = Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)]


class RatedBody(Body):
    """One rating of a visitor: 0.5 to 5 stars in half stars."""

    item_id: Id
    rating: Annotated[float, Field(ge=0.5, le=5, multiple_of=0.5)]


class _Options(Body):
    """What may be said of any question."""

    offset: Offset = 0
    include: Filters = Field(default_factory=dict)
    exclude: Filters = Field(default_factory=dict)
    explain: bool = False
    fallback: bool = False

    @property
    def filter(self) -> AttributeFilter:
        return AttributeFilter(include=_sets(self.include), exclude=_sets(self.exclude))


class RecommendBody(_Options):
    """One person's question: `user_id`, or a visitor's `attributes` and `history`, not stored."""

    user_id: Id | None = None
    attributes: Annotated[dict[Name, Name], Field(max_length=_MAX_ATTRIBUTES)] = Field(
        default_factory=dict
    )
    history: Annotated[list[RatedBody], Field(max_length=_MAX_HISTORY)] = Field(
        default_factory=list, description="Oldest first."
    )
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_RANKED)] | None = None
    n: N | None = Field(default=None, description="10, or all where `item_ids` are given.")
    exclude_seen: bool | None = Field(default=None, description="True without `item_ids`.")
    deadline_ms: DeadlineMs | None = None

    @model_validator(mode="after")
    def _one_person(self) -> Self:
        if self.user_id is not None and (self.attributes or self.history):
            raise ValueError("give a user_id, or attributes and history of a visitor, not both")
        items = [one.item_id for one in self.history]
        if len(set(items)) < len(items):
            raise ValueError("the history must hold every item once")
        check_explained(self.explain, self.query().n)
        return self

    def query(self) -> RecommendationQuery:
        """Return what is asked, in the words of the domain."""
        given = self.item_ids
        person = self.user_id or Visitor(
            attributes=self.attributes,
            history=tuple((one.item_id, one.rating) for one in self.history),
        )
        default_n = 10 if given is None else len(given)
        return RecommendationQuery(
            person=person,
            n=default_n if self.n is None else self.n,
            offset=self.offset,
            exclude_seen=given is None if self.exclude_seen is None else self.exclude_seen,
            filter=self.filter,
            item_ids=None if given is None else tuple(dict.fromkeys(given)),
            explain=self.explain,
            fallback=self.fallback,
        )


class RecommendBatchBody(_Options):
    """The same question for several people, answered jointly."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    n: N = 10
    exclude_seen: bool = True

    @model_validator(mode="after")
    def _few_explained(self) -> Self:
        check_explained(self.explain, self.n)
        return self

    def queries(self) -> list[RecommendationQuery]:
        """Return one question per person, in the order given."""
        return [
            RecommendationQuery(
                person=user_id,
                n=self.n,
                offset=self.offset,
                exclude_seen=self.exclude_seen,
                filter=self.filter,
                explain=self.explain,
                fallback=self.fallback,
            )
            for user_id in dict.fromkeys(self.user_ids)
        ]


class ReasonAnswer(Answer):
    """An item of the history; without it the score would be lower by `effect`."""

    item_id: str
    title: str
    rating: float
    effect: float


class RecommendedItemAnswer(Answer):
    """One item; `score` is the probability that the user likes it, null without the model."""

    item_id: str
    title: str
    score: float | None
    rank: int
    because: list[ReasonAnswer] | None = Field(
        default=None, description="With `explain`: what moved the score most."
    )


class RecommendAnswer(Answer):
    """The best items for a user, all from the one release named; null: no model was asked."""

    user_id: str | None
    release: str | None
    items: list[RecommendedItemAnswer]
    ranked_by: RankedBy
    next_offset: int | None

    @classmethod
    def of(cls, recommendation: Recommendation) -> Self:
        return cls.model_validate(recommendation)


class RefusedAnswer(Answer):
    """Why one of several people got no recommendations."""

    user_id: str
    type: str
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, user_id: str, error: LetheError) -> Self:
        kind = kind_of(type(error))
        return cls(
            user_id=user_id,
            type=kind.type,
            title=kind.title,
            status=kind.status,
            detail=str(error),
        )


class RecommendBatchAnswer(Answer):
    """One entry per person, in the order asked; `refused` has those who got nothing."""

    items: list[RecommendAnswer]
    refused: list[RefusedAnswer]


class SimilarItemAnswer(Answer):
    """One item; `score` compares within one answer only."""

    item_id: str
    title: str
    score: float
    rank: int


class SimilarAnswer(Answer):
    """The items that are liked by those who like this one."""

    item_id: str
    items: list[SimilarItemAnswer]

    @classmethod
    def of(cls, similar: Similar) -> Self:
        return cls.model_validate(similar)


def check_explained(explain: bool, n: int) -> None:
    """Raise ValueError where more is to be explained than one answer takes."""
    if explain and n > MAX_EXPLAINED:
        raise ValueError(f"explain takes an n of at most {MAX_EXPLAINED}")


def _sets(values: dict[str, list[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(those) for name, those in values.items()}
