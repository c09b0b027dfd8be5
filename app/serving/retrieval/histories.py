"""Histories of all users in memory, so that a recommendation need not read them from the database.

A history takes 12 bytes per rating. The index follows the change log, and its histories with it.
Whether a user's history is up to date is decided by the caller, who knows the newest log entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.catalog import UserVersion
from models.data.samples import HISTORY_LENGTH, LIKED_ABOVE
from models.prompts.scoring_inputs import HistoryEvent
from models.retrieval.candidate_index import LATEST_LIKES, Event
from models.retrieval.shared_map import SharedMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from app.serving.retrieval.catalog_snapshot import CatalogSnapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredHistory:
    """All ratings of a user in order of (timestamp, item id), as [N] arrays."""

    #: int32 item indices.
    item_indices: NDArray[np.int32]
    #: float64 stars.
    ratings: NDArray[np.float64]
    #: The newest data version of the ratings; -1 if it is not known.
    newest: int = 0
    #: Whether some ratings may not be used, so that the database must be read.
    is_restricted: bool = False

    def version_with(self, attributes: dict[str, str]) -> UserVersion | None:
        """Return the version of the user's data; None if it is not known."""
        if self.newest < 0:
            return None
        return UserVersion(
            attributes=attributes, interactions=len(self.item_indices), newest=self.newest
        )

    @classmethod
    def of(cls, rows: Iterable[tuple[int, float, int]]) -> StoredHistory:
        """Return the history of (item index, stars, data version) rows, which are in order."""
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        versions = columns[2]
        return cls(
            item_indices=np.array(columns[0], np.int32),
            ratings=np.array(columns[1], np.float64),
            newest=-1 if min(versions, default=0) < 0 else max(versions, default=0),
        )


_NO_ITEMS: Final = np.empty(0, np.int32)
NO_HISTORY: Final = StoredHistory(item_indices=_NO_ITEMS, ratings=np.empty(0, np.float64))
#: Stands for a user with ratings that an open deletion request names.
RESTRICTED: Final = StoredHistory(
    item_indices=_NO_ITEMS, ratings=np.empty(0, np.float64), is_restricted=True
)


class HistoriesBuilder:
    """Collect the histories of all users from rows in order of (user id, timestamp, item id)."""

    def __init__(self) -> None:
        """Start without rows."""
        self._histories: SharedMap[StoredHistory] = SharedMap()
        self._user_id: str | None = None
        self._rows: list[tuple[int, float, int]] = []
        self._is_restricted = False

    def add(
        self, user_id: str, item_index: int, rating: float, version: int, is_restricted: bool
    ) -> None:
        """Add the next row; `is_restricted` if a deletion request names this interaction."""
        if user_id != self._user_id:
            self._end_user()
            self._user_id = user_id
        self._rows.append((item_index, rating, version))
        self._is_restricted |= is_restricted

    def build(self) -> SharedMap[StoredHistory]:
        """Return the histories of all users that have been added."""
        self._end_user()
        return self._histories

    def _end_user(self) -> None:
        if self._user_id is not None:
            history = RESTRICTED if self._is_restricted else StoredHistory.of(self._rows)
            self._histories.put(self._user_id, history)
        self._rows, self._is_restricted = [], False


class UsableHistory:
    """The ratings of one asker that an answer may use."""

    def __init__(
        self,
        catalog: CatalogSnapshot,
        stored: StoredHistory,
        withheld: AbstractSet[str] = frozenset(),
    ) -> None:
        """Leave out retired items, and the items `withheld`."""
        self._catalog = catalog
        self._stored = stored
        self._withheld = withheld
        #: The latest likes, oldest first, for the index.
        self.likes: Sequence[Event] = ()
        #: The latest events, oldest first, for the scorer, and their item ids.
        self.events: tuple[HistoryEvent, ...] = ()
        self.ids: tuple[str, ...] = ()
        #: The item ids of likes and events: all that an answer depends on.
        self.used_ids: frozenset[str] = frozenset()
        self._read_latest()

    def item_ids(self) -> set[str]:
        """Return the ids of all usable items."""
        items = map(self._catalog.by_item_index.get, self._stored.item_indices.tolist())
        return {
            item.id
            for item in items
            if item is not None and not item.retired and item.id not in self._withheld
        }

    def _read_latest(self) -> None:
        """Read from the end of the history, which may be long, as much as an answer uses."""
        likes: list[Event] = []
        events: list[HistoryEvent] = []
        ids: list[str] = []
        used_ids: set[str] = set()
        by_item_index, withheld = self._catalog.by_item_index, self._withheld
        item_indices, ratings = self._stored.item_indices.tolist(), self._stored.ratings.tolist()
        for item_index, rating in zip(reversed(item_indices), reversed(ratings), strict=True):
            item = by_item_index.get(item_index)
            if item is None or item.retired or item.id in withheld:
                continue
            if len(events) < HISTORY_LENGTH:
                events.append(HistoryEvent(item.item_index, rating, item.title_for_models))
                ids.append(item.id)
                used_ids.add(item.id)
            if rating > LIKED_ABOVE:
                likes.append(Event(item.item_index, rating, 0))
                used_ids.add(item.id)
            if len(likes) >= LATEST_LIKES and len(events) >= HISTORY_LENGTH:
                break
        self.likes = likes[::-1][-LATEST_LIKES:]
        self.events, self.ids = tuple(events[::-1]), tuple(ids[::-1])
        self.used_ids = frozenset(used_ids)
