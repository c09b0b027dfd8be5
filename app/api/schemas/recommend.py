"""JSON of recommendation queries, recommendations and similar items."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from app.api.problems import kind_of
from app.api.schemas.common import Answer, Body, Id
from app.api.schemas.users import Stars
from app.domain.errors import LetheError
from app.domain.id_rules import normal_id
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
    Field(
        max_length=_MAX_FILTERS,
        description="Values per attribute; an item matches if it has one of them.",
    ),
]
N = Annotated[int, Field(ge=1, le=MAX_N)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
DeadlineMs = Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)]


class RatedBody(Body):
    """Rating by a visitor, of 0.5 to 5 stars in half stars."""

    item_id: Id
    rating: Stars


class _Options(Body):
    """Options of every recommendation query."""

    offset: Offset = 0
    include: Filters = Field(default_factory=dict)
    exclude: Filters = Field(default_factory=dict)
    explain: bool = False
    fallback: bool = False

    @property
    def filter(self) -> AttributeFilter:
        return AttributeFilter(include=_sets(self.include), exclude=_sets(self.exclude))


class RecommendBody(_Options):
    """Query for a user, or for a visitor whose `attributes` and `history` are not stored."""

    user_id: Id | None = None
    attributes: Annotated[dict[Name, Name], Field(max_length=_MAX_ATTRIBUTES)] = Field(
        default_factory=dict
    )
    history: Annotated[list[RatedBody], Field(max_length=_MAX_HISTORY)] = Field(
        default_factory=list, description="Oldest first."
    )
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_RANKED)] | None = None
    n: N | None = Field(default=None, description="Default: 10, or all of `item_ids`.")
    exclude_seen: bool | None = Field(
        default=None, description="Default: true without `item_ids`, else false."
    )
    deadline_ms: DeadlineMs | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.user_id is not None and (self.attributes or self.history):
            raise ValueError("give either a user_id or a visitor's attributes and history")
        item_ids = [normal_id(rated.item_id) for rated in self.history]
        if len(set(item_ids)) < len(item_ids):
            raise ValueError("the history must contain each item only once")
        check_explained(self.explain, self.query().n)
        return self

    def query(self) -> RecommendationQuery:
        """Return the query with its defaults filled in."""
        item_ids = self.item_ids
        person = self.user_id or Visitor(
            attributes=self.attributes,
            history=tuple((rated.item_id, rated.rating) for rated in self.history),
        )
        default_n = 10 if item_ids is None else len(item_ids)
        return RecommendationQuery(
            person=person,
            n=default_n if self.n is None else self.n,
            offset=self.offset,
            exclude_seen=item_ids is None if self.exclude_seen is None else self.exclude_seen,
            filter=self.filter,
            item_ids=None if item_ids is None else tuple(dict.fromkeys(item_ids)),
            explain=self.explain,
            fallback=self.fallback,
        )


class RecommendBatchBody(_Options):
    """Query for several users, which are scored together."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    n: N = 10
    exclude_seen: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_explained(self.explain, self.n)
        return self

    def queries(self) -> list[RecommendationQuery]:
        """Return one query per user, in the order of the request."""
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
    """Item of the history; without the item the score would be lower by `effect`."""

    item_id: str
    title: str
    rating: float
    effect: float


class RecommendedItemAnswer(Answer):
    """Recommended item; `score` is the probability of a like, null without the model."""

    item_id: str
    title: str
    score: float | None
    rank: int
    because: list[ReasonAnswer] | None = Field(
        default=None,
        description="With `explain`: the ratings with the largest effect on the score.",
    )


class RecommendAnswer(Answer):
    """Recommendations for a user from one release; `release` is null without the model."""

    user_id: str | None
    release: str | None
    items: list[RecommendedItemAnswer]
    ranked_by: RankedBy
    next_offset: int | None

    @classmethod
    def of(cls, recommendation: Recommendation) -> Self:
        return cls.model_validate(recommendation)


class RefusedAnswer(Answer):
    """Problem that one user of a batch got in place of recommendations."""

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
    """Recommendations and problems per user, in the order of the request."""

    items: list[RecommendAnswer]
    refused: list[RefusedAnswer]


class SimilarItemAnswer(Answer):
    """Similar item; scores are comparable only within one answer."""

    item_id: str
    title: str
    score: float
    rank: int


class SimilarAnswer(Answer):
    """Items that are liked by the users who like this item."""

    item_id: str
    items: list[SimilarItemAnswer]

    @classmethod
    def of(cls, similar: Similar) -> Self:
        return cls.model_validate(similar)


def check_explained(explain: bool, n: int) -> None:
    """Raise ValueError if an explanation is requested for too many items."""
    if explain and n > MAX_EXPLAINED:
        raise ValueError(f"explain takes an n of at most {MAX_EXPLAINED}")


def _sets(values: dict[str, list[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(choices) for name, choices in values.items()}
