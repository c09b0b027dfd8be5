"""Users, items and interactions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, select, update

from app.domain.catalog import Interaction, Item, User
from app.storage.repositories.base import Repository, portions
from app.storage.tables import InteractionRow, ItemRow, UserRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import InstrumentedAttribute

_STREAM: Final = 2000
_INTERACTIONS: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    InteractionRow.user_id,
    InteractionRow.item_id,
    InteractionRow.rating,
    InteractionRow.timestamp,
)
#: Read for every answer, so they are put together once.
_USER: Final = select(UserRow.id, UserRow.attributes).where(UserRow.id == bindparam("user_id"))
_HISTORY: Final = (
    select(*_INTERACTIONS)
    .where(InteractionRow.user_id == bindparam("user_id"))
    .order_by(InteractionRow.timestamp, InteractionRow.item_id)
)


class PeopleRepository(Repository):
    """Implements `ports.PeopleRepository`."""

    def user(self, user_id: str) -> User | None:
        row = self._connection.execute(_USER, {"user_id": user_id}).first()
        return None if row is None else User(id=row.id, attributes=row.attributes)

    def item(self, item_id: str) -> Item | None:
        row = self._connection.execute(
            select(ItemRow.__table__).where(ItemRow.id == item_id)
        ).first()
        return None if row is None else _item(row)

    def items(self) -> list[Item]:
        query = select(ItemRow.__table__).order_by(ItemRow.item_index)
        return [_item(row) for row in self._connection.execute(query)]

    def page_of_items(self, limit: int, after: str | None) -> list[Item]:
        query = select(ItemRow.__table__).where(ItemRow.retired.is_(False)).order_by(ItemRow.id)
        if after is not None:
            query = query.where(ItemRow.id > after)
        return [_item(row) for row in self._connection.execute(query.limit(limit))]

    def users(self) -> Iterator[User]:
        query = select(UserRow.id, UserRow.attributes).order_by(UserRow.id)
        for row in self._stream(query):
            yield User(id=row.id, attributes=row.attributes)

    def history(self, user_id: str) -> list[Interaction]:
        rows = self._connection.execute(_HISTORY, {"user_id": user_id})
        return [_interaction(row) for row in rows]

    def interactions(self) -> Iterator[Interaction]:
        query = select(*_INTERACTIONS).order_by(
            InteractionRow.user_id, InteractionRow.timestamp, InteractionRow.item_id
        )
        for row in self._stream(query):
            yield _interaction(row)

    def count_of(self, user_id: str) -> int:
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
        found: set[str] = set()
        for portion in portions(item_ids):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion), ItemRow.retired.is_(False))
            found.update(self._connection.execute(query).scalars())
        return found

    def ensure_users(self, user_ids: Iterable[str]) -> None:
        # In one order everywhere, so that two transactions never wait for each other.
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

    def upsert_items(self, items: Sequence[tuple[str, str, dict[str, list[str]]]]) -> None:
        if not items:
            return
        latest = {item[0]: item for item in items}
        held: set[str] = set()
        for portion in portions(latest):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion))
            held.update(self._connection.execute(query).scalars())
        # A retired item keeps its row, so its slot is never given away again.
        highest = self._connection.execute(select(func.max(ItemRow.item_index))).scalar_one()
        following = 0 if highest is None else highest + 1
        rows = []
        for item_id, title, attributes in latest.values():
            values = {"id": item_id, "title": title, "attributes": attributes, "retired": False}
            # The slot of an item that is held is not in the update's set, so any value will do.
            rows.append({**values, "item_index": following})
            following += item_id not in held
        insert = self._insert(ItemRow)
        changed = {"title": insert.excluded.title, "attributes": insert.excluded.attributes}
        self._connection.execute(
            insert.on_conflict_do_update(index_elements=["id"], set_=changed), rows
        )

    def set_available(self, item_ids: Iterable[str], *, available: bool) -> None:
        for portion in portions(item_ids):
            self._changed(
                update(ItemRow).where(ItemRow.id.in_(portion)).values(available=available)
            )

    def upsert_interactions(self, interactions: Sequence[Interaction]) -> None:
        rows = {
            (one.user_id, one.item_id): {
                "user_id": one.user_id,
                "item_id": one.item_id,
                "rating": one.rating,
                "timestamp": one.timestamp,
            }
            for one in interactions
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
        gone = self._changed(delete(InteractionRow).where(InteractionRow.user_id == user_id))
        self._changed(delete(UserRow).where(UserRow.id == user_id))
        return gone

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
        gone = self._changed(delete(InteractionRow).where(InteractionRow.item_id == item_id))
        # The row stays for its slot, under a name that says nothing and that nobody can post.
        self._changed(
            update(ItemRow)
            .where(ItemRow.id == item_id)
            .values(id=f"retired:{uuid.uuid4().hex}", title="", attributes={}, retired=True)
        )
        return gone

    def _stream(self, query: Select[Any]) -> Iterator[Row[Any]]:
        options = {"stream_results": True, "yield_per": _STREAM}
        return iter(self._connection.execute(query, execution_options=options))


def _item(row: Row[Any]) -> Item:
    return Item(
        id=row.id,
        title=row.title,
        attributes=row.attributes,
        item_index=row.item_index,
        retired=row.retired,
        available=row.available,
    )


def _interaction(row: Sequence[Any]) -> Interaction:
    # By place: hundreds of rows are read for an answer, and names are looked up slowly.
    return Interaction(user_id=row[0], item_id=row[1], rating=row[2], timestamp=row[3])
