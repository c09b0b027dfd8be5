"""What can be asked of a recommender, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Most items that a caller may have ranked in one call.
MAX_RANKED: Final = 1000
#: Most users that one call may ask for.
MAX_USERS: Final = 50
#: Most items that are explained in one answer: each costs a score per event of the history.
MAX_EXPLAINED: Final = 20


class RankedBy(StrEnum):
    """What put the items in their order."""

    #: The language model of the release that the answer names; scores are probabilities.
    MODEL = "model"
    #: The first stage, from the person's own history; there are no scores.
    FIRST_STAGE = "first-stage"
    #: The first stage, which knows nothing of the person: what is popular with everybody.
    POPULARITY = "popularity"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeFilter:
    """Which items may be recommended: attribute name → values.

    An item passes with one of the included values of every name given, and with none of the
    excluded ones.
    """

    include: Mapping[str, frozenset[str]] = field(default_factory=dict)
    exclude: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody of whom nothing is stored: attributes and (item id, stars), oldest first."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationQuery:
    """One call for recommendations: for whom, and which part of which items."""

    #: The id of a person, or a visitor.
    person: str | Visitor
    n: int = 10
    offset: int = 0
    exclude_seen: bool = True
    filter: AttributeFilter = field(default_factory=AttributeFilter)
    #: The items to rank; None lets the first stage propose.
    item_ids: tuple[str, ...] | None = None
    explain: bool = False
    #: Answer with what is popular where the person is unknown or no release is being served.
    fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One item of the history, and by how much it raised a score: without it, it were lower."""

    item_id: str
    title: str
    rating: float
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendedItem:
    """One item; `score` is the probability that the user likes it, and rank 1 is the best."""

    item_id: str
    title: str
    score: float | None
    rank: int
    because: tuple[Reason, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """An answer, made from exactly one release, or from none where `release` is None."""

    user_id: str | None
    release: str | None
    items: tuple[RecommendedItem, ...]
    ranked_by: RankedBy
    #: Where the next page begins; None after the last one.
    next_offset: int | None
    #: The version of the data that the answer was made from.
    data_version: int

    @property
    def tag(self) -> str | None:
        """Return its entity tag; None where no release ranked it, as one may the next moment."""
        return None if self.release is None else answer_tag(self.release, self.data_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarItem:
    """An item that is liked by those who like another; rank 1 is the most similar."""

    item_id: str
    title: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The items that are like one item; they rest on counts alone, not on a release."""

    item_id: str
    items: tuple[SimilarItem, ...]
    data_version: int

    @property
    def tag(self) -> str:
        """Return its entity tag."""
        return similar_tag(self.data_version)


def answer_tag(release: str | None, data_version: int) -> str:
    """Return the entity tag of an answer: all that it rests on besides the question itself."""
    return f'"{release}.{data_version}"'


def similar_tag(data_version: int) -> str:
    """Return the entity tag of similar items, which rest on the data alone."""
    return f'"{data_version}"'
