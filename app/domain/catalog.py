"""People, items and interactions as the gateway handles them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item of the catalogue. `slot` is its row in the vocabulary, kept across releases."""

    id: str
    title: str
    #: Attribute name → values, e.g. {"genre": ["Comedy"]}.
    attributes: dict[str, list[str]] = field(default_factory=dict)
    item_index: int
    retired: bool = False
    #: False while it is withdrawn: it keeps its ratings, but nobody is recommended it.
    available: bool = True


#: An item to store: (id, title, attributes).
NewItem = tuple[str, str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Someone who rates. Attributes may be missing: {"gender": "F", "age": "25"} or {}."""

    id: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One rating, 0.5 to 5 stars; `timestamp` is Unix seconds."""

    user_id: str
    item_id: str
    rating: float
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChange:
    """One entry of the change log that replicas follow: `version` grows by one per change.

    `user_id` None means that the entry's person is gone: a replica that has not yet applied it
    must build its statistics anew. `completed` asks nothing of a replica that is up to date: the
    person's inputs were suppressed by the `forget` entry long before.
    """

    version: int
    kind: str  # "interactions" | "forget" | "cancel" | "items" | "completed"
    user_id: str | None
