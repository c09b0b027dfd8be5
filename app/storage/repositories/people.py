"""Users, items and interactions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, select, update

from app.domain.catalog import Interaction, Item, ItemOrigin, NewItem, User
from app.storage.repositories.base import Repository, portions
from app.storage.tables import InteractionRow, ItemRow, UserRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import InstrumentedAttribute

#: Rows that a stream fetches at a time.
_STREAM_ROWS: Final = 2000
_INTERACTIONS: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    InteractionRow.user_id,
    InteractionRow.item_id,
    InteractionRow.rating,
    InteractionRow.timestamp,
)
#: Built once, because every recommendation runs these two queries.
_USER: Final = select(UserRow.id, UserRow.attributes).where(UserRow.id == bindparam("user_id"))
_HISTORY: Final = (
    select(*_INTERACTIONS)
    .where(InteractionRow.user_id == bindparam("user_id"))
    .order_by(InteractionRow.timestamp, InteractionRow.item_id)
)


class PeopleRepository(Repository):
    """Users, items and interactions."""

    def user(self, user_id: str) -> User | None:
        row = self._connection.execute(_USER, {"user_id": user_id}).first()
        return None if row is None else User(id=row.id, attributes=row.attributes)

    def item(self, item_id: str) -> Item | None:
        row = self._connection.execute(
            select(ItemRow.__table__).where(ItemRow.id == item_id)
        ).first()
        return None if row is None else _item(row)

    def items(self) -> list[Item]:
        """Return the whole catalog, retired items included, in order of item index."""
        query = select(ItemRow.__table__).order_by(ItemRow.item_index)
        return [_item(row) for row in self._connection.execute(query)]

    def page_of_items(self, limit: int, after: str | None) -> list[Item]:
        """Return up to `limit` items that are not retired, in order of id, after the given id."""
        query = select(ItemRow.__table__).where(ItemRow.retired.is_(False)).order_by(ItemRow.id)
        if after is not None:
            query = query.where(ItemRow.id > after)
        return [_item(row) for row in self._connection.execute(query.limit(limit))]

    def users(self) -> Iterator[User]:
        query = select(UserRow.id, UserRow.attributes).order_by(UserRow.id)
        for row in self._stream(query):
            yield User(id=row.id, attributes=row.attributes)

    def history(self, user_id: str) -> list[Interaction]:
        """Return a user's interactions in order of (timestamp, item id)."""
        rows = self._connection.execute(_HISTORY, {"user_id": user_id})
        return [_interaction(row) for row in rows]

    def interactions(self) -> Iterator[Interaction]:
        """Stream all interactions in order of (user id, timestamp, item id)."""
        query = select(*_INTERACTIONS).order_by(
            InteractionRow.user_id, InteractionRow.timestamp, InteractionRow.item_id
        )
        for row in self._stream(query):
            yield _interaction(row)

    def count_of(self, user_id: str) -> int:
        """Return the number of interactions of a user."""
        query = (
            select(func.count())
            .select_from(InteractionRow)
            .where(InteractionRow.user_id == user_id)
        )
        return self._connection.execute(query).scalar_one()

    def raters_of(self, item_id: str) -> list[str]:
        query = (
            select(InteractionRow.user_id)
            .where(InteractionRow.item_id == item_id)
            .order_by(InteractionRow.user_id)
        )
        return list(self._connection.execute(query).scalars())

    def counts(self) -> dict[str, int]:
        """Return the numbers of users, of items that are not retired, and of interactions."""
        live_items = select(func.count()).select_from(ItemRow).where(ItemRow.retired.is_(False))
        queries = {
            "users": select(func.count()).select_from(UserRow),
            "items": live_items,
            "interactions": select(func.count()).select_from(InteractionRow),
        }
        return {
            name: self._connection.execute(query).scalar_one() for name, query in queries.items()
        }

    def known_items(self, item_ids: Iterable[str]) -> set[str]:
        """Return the ids that are in the catalog and not retired."""
        known: set[str] = set()
        for portion in portions(item_ids):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion), ItemRow.retired.is_(False))
            known.update(self._connection.execute(query).scalars())
        return known

    def ensure_users(self, user_ids: Iterable[str]) -> None:
        """Add the users that are missing, and keep the attributes of existing users."""
        # Sorted, so that two concurrent transactions cannot deadlock.
        rows = [{"id": user_id, "attributes": {}} for user_id in sorted(set(user_ids))]
        if rows:
            self._connection.execute(self._insert(UserRow).on_conflict_do_nothing(), rows)

    def upsert_users(self, users: Sequence[User]) -> None:
        rows = {user.id: {"id": user.id, "attributes": user.attributes} for user in users}
        if not rows:
            return
        insert = self._insert(UserRow)
        self._connection.execute(
            insert.on_conflict_do_update(
                index_elements=["id"], set_={"attributes": insert.excluded.attributes}
            ),
            [rows[user_id] for user_id in sorted(rows)],
        )

    def upsert_items(self, items: Sequence[NewItem]) -> None:
        """Add or change items. New items are available and get the next free item indices."""
        if not items:
            return
        latest = {item[0]: item for item in items}
        known: set[str] = set()
        for portion in portions(latest):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion))
            known.update(self._connection.execute(query).scalars())
        # A retired item keeps its row, so its index is never reused.
        highest = self._connection.execute(select(func.max(ItemRow.item_index))).scalar_one()
        next_index = 0 if highest is None else highest + 1
        rows = []
        for item_id, title, attributes in latest.values():
            values = {"id": item_id, "title": title, "attributes": attributes, "retired": False}
            # The update of an existing item leaves out the index, so its value here has no effect.
            rows.append({**values, "item_index": next_index})
            next_index += item_id not in known
        insert = self._insert(ItemRow)
        changed = {"title": insert.excluded.title, "attributes": insert.excluded.attributes}
        self._connection.execute(
            insert.on_conflict_do_update(index_elements=["id"], set_=changed), rows
        )

    def set_available(self, item_ids: Iterable[str], *, available: bool) -> None:
        """Allow or forbid recommendations of the items."""
        for portion in portions(item_ids):
            self._changed(
                update(ItemRow).where(ItemRow.id.in_(portion)).values(available=available)
            )

    def upsert_interactions(self, interactions: Sequence[Interaction]) -> None:
        rows = {
            (row.user_id, row.item_id): {
                "user_id": row.user_id,
                "item_id": row.item_id,
                "rating": row.rating,
                "timestamp": row.timestamp,
            }
            for row in interactions
        }
        if not rows:
            return
        insert = self._insert(InteractionRow)
        changed = {"rating": insert.excluded.rating, "timestamp": insert.excluded.timestamp}
        self._connection.execute(
            insert.on_conflict_do_update(index_elements=["user_id", "item_id"], set_=changed),
            list(rows.values()),
        )

    def delete_user(self, user_id: str) -> int:
        """Delete a user and all interactions; return the number of interactions."""
        deleted = self._changed(delete(InteractionRow).where(InteractionRow.user_id == user_id))
        self._changed(delete(UserRow).where(UserRow.id == user_id))
        return deleted

    def delete_interactions(self, user_id: str, item_ids: Iterable[str]) -> int:
        return sum(
            self._changed(
                delete(InteractionRow).where(
                    InteractionRow.user_id == user_id, InteractionRow.item_id.in_(portion)
                )
            )
            for portion in portions(item_ids)
        )

    def retire_item(self, item_id: str) -> int:
        """Delete an item's interactions, title and attributes; return the number of interactions.

        The item index is never used again.
        """
        deleted = self._changed(delete(InteractionRow).where(InteractionRow.item_id == item_id))
        # The row stays to reserve the item index. The new id is random, and its prefix marks it.
        self._changed(
            update(ItemRow)
            .where(ItemRow.id == item_id)
            .values(id=f"retired:{uuid.uuid4().hex}", title="", attributes={}, retired=True)
        )
        return deleted

    def _stream(self, query: Select[Any]) -> Iterator[Row[Any]]:
        options = {"stream_results": True, "yield_per": _STREAM_ROWS}
        return iter(self._connection.execute(query, execution_options=options))


def _item(row: Row[Any]) -> Item:
    return Item(
        id=row.id,
        title=row.title,
        attributes=row.attributes,
        item_index=row.item_index,
        retired=row.retired,
        available=row.available,
        origin=None if row.origin is None else ItemOrigin(row.origin),
    )


def _interaction(row: Sequence[Any]) -> Interaction:
    # Access by position: a recommendation reads hundreds of rows, and access by name is slower.
    return Interaction(user_id=row[0], item_id=row[1], rating=row[2], timestamp=row[3])
