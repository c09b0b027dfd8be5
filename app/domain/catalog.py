"""Users, items, interactions, and entries of the change log."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

#: Kinds of entries of the change log that change which data may be used.
SUPPRESSION_KINDS: Final = frozenset({"forget", "cancel"})
#: Kinds of entries of the change log that change which interactions of a user count.
USER_KINDS: Final = SUPPRESSION_KINDS | {"interactions"}
#: Kinds of entries of the change log that change the catalog.
CATALOG_KINDS: Final = frozenset({"items"})
#: The user id of a log entry about the deletion of an item, which concerns no single user. An entry
#: per user who rated the item would make replicas read thousands of entries before an answer.
NO_USER: Final = ""


class ItemOrigin(StrEnum):
    """The source that named or described an item. The origin `catalog` never changes.

    Ratings of only one user describe an item of origin `rater`. Its title and attributes may be
    about this user: they are deleted with the ratings of any of its users, and models do not read
    them.
    """

    CATALOG = "catalog"
    RATINGS = "ratings"
    RATER = "rater"


class EntryOutcome(StrEnum):
    """What was done about one entry of a call that stores users, items or ratings."""

    STORED = "stored"
    #: A later rating of the item by the user is stored, or is in the same call.
    OLDER = "older"
    #: A later entry of the same call has the same id, or the same user, item and time.
    REPLACED = "replaced"
    #: The user, the item or the rating is forgotten.
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item of the catalog. `item_index` is its row in the vocabulary of every release."""

    id: str
    title: str
    #: Attribute name → values, e.g. {"genre": ["Comedy"]}.
    attributes: dict[str, list[str]] = field(default_factory=dict)
    item_index: int
    retired: bool = False
    #: False while the item is withdrawn: its ratings count, but it is not recommended.
    available: bool = True
    #: None: the item was stored before origins were recorded.
    origin: ItemOrigin | None = None

    @property
    def title_for_models(self) -> str:
        """The title, or the id of an item that rows of one user described."""
        return self.id if self.origin is ItemOrigin.RATER else self.title

    @property
    def attributes_for_models(self) -> dict[str, list[str]]:
        """The attributes, or none if rows of one user described the item."""
        return {} if self.origin is ItemOrigin.RATER else self.attributes

    @property
    def is_from_ratings(self) -> bool:
        """Whether the item is retired when its last ratings are deleted."""
        if self.origin is None:
            return not self.is_described
        return self.origin is not ItemOrigin.CATALOG

    @property
    def is_described(self) -> bool:
        """Whether the item has attributes, or a title other than its id."""
        return bool(self.attributes) or self.title not in {"", self.id}


#: An item to store: (id, title, attributes).
NewItem = tuple[str, str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user. `attributes` may be empty, e.g. {"gender": "F", "age": "25"} or {}."""

    id: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """A rating of an item by a user: 0.5 to 5 stars. `timestamp` is in Unix seconds."""

    user_id: str
    item_id: str
    rating: float
    timestamp: int


class RecordedInteraction(NamedTuple):
    """An interaction, and the data versions of the first and of the last write of its values."""

    interaction: Interaction
    first_version: int
    last_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserVersion:
    """The state of a user's own data: it differs whenever attributes or interactions differ."""

    attributes: dict[str, str]
    interactions: int
    #: The newest data version that changed one of the interactions; 0 without interactions.
    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRange:
    """The first and the last version of some entries of the change log."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChanges:
    """Numbers of log entries: all of them, distinct users, and changes of users without a name."""

    entries: int
    users: int
    unnamed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChange:
    """An entry of the change log that replicas read. `version` grows by one per change.

    `user_id` is None if the user has been deleted since: a replica that has not applied the entry
    must rebuild its statistics. It is NO_USER for the deletion of an item. A replica that is up to
    date ignores `completed` entries, because the earlier `forget` entry suppressed the user's data.
    """

    version: int
    kind: str  # "interactions" | "forget" | "cancel" | "items" | "completed"
    user_id: str | None
