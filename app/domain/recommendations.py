"""Define recommendation queries and answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The maximum number of items to rank in one call.
MAX_RANKED: Final = 1000
#: The maximum number of users in one call.
MAX_USERS: Final = 50
#: The maximum number of explained items in one answer; each needs a score per history event.
MAX_EXPLAINED: Final = 20


class RankedBy(StrEnum):
    """The ranker that ordered the items."""

    #: The model of the answer's release; scores are probabilities.
    MODEL = "model"
    #: The first stage, from the user's history; there are no scores.
    FIRST_STAGE = "first-stage"
    #: The first stage without a history: the items that are popular with all users.
    POPULARITY = "popularity"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeFilter:
    """A filter on items: attribute name → values.

    An item passes if, for each name in `include`, the item has one of the values, and for each
    name in `exclude`, none of the values.
    """

    include: Mapping[str, frozenset[str]] = field(default_factory=dict)
    exclude: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A person without stored data; the history holds (item id, rating), oldest first."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationQuery:
    """A request for one page of recommendations for one user or visitor."""

    #: A user id, or a visitor.
    person: str | Visitor
    #: The user's id as the caller wrote it, if `person` is its normal form.
    spelling: str | None = None
    n: int = 10
    offset: int = 0
    exclude_seen: bool = True
    filter: AttributeFilter = field(default_factory=AttributeFilter)
    #: The items to rank; None means that the first stage proposes items.
    item_ids: tuple[str, ...] | None = None
    explain: bool = False
    #: Answer without a model if the user is unknown or no release is live.
    fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """An item of the history, and how much the item raised a recommended item's score."""

    item_id: str
    title: str
    rating: float
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendedItem:
    """A recommended item; `score` is the probability of a like, and rank 1 is the best."""

    item_id: str
    title: str
    score: float | None
    rank: int
    because: tuple[Reason, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """An answer computed from exactly one release, or from none if `release` is None."""

    user_id: str | None
    release: str | None
    items: tuple[RecommendedItem, ...]
    ranked_by: RankedBy
    #: The offset of the next page; None on the last page.
    next_offset: int | None
    #: The data version that the answer was computed from.
    data_version: int
    #: The entity tag; None for an answer that must not be cached.
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarItem:
    """An item liked by the users who like another item; rank 1 is the most similar."""

    item_id: str
    title: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The items similar to one item, computed from co-occurrence counts without a release."""

    item_id: str
    items: tuple[SimilarItem, ...]
    tag: str
