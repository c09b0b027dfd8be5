"""Users, items and interactions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, case, delete, exists, func, select, tuple_, update

from app.domain.catalog import (
    Interaction,
    Item,
    ItemOrigin,
    NewItem,
    RecordedInteraction,
    User,
    UserVersion,
)
from app.domain.requests import Scope
from app.storage.repositories.base import Repository, portions
from app.storage.tables import InteractionRow, ItemRow, UserRow

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import InstrumentedAttribute

    from app.domain.requests import Subject

#: Rows that a stream fetches at a time.
_STREAM_ROWS: Final = 2000
#: The versions of an interaction that a process of an earlier version has written.
UNKNOWN_VERSION: Final = -1
#: An insert by such a process sets both versions, and an update the second.
_IS_UNKNOWN: Final = InteractionRow.last_version == UNKNOWN_VERSION
_INTERACTIONS: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    InteractionRow.user_id,
    InteractionRow.item_id,
    InteractionRow.rating,
    InteractionRow.timestamp,
)
_RECORDED: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    *_INTERACTIONS,
    InteractionRow.first_version,
    InteractionRow.last_version,
)
#: Built once, because every recommendation runs these two queries.
_USER: Final = select(UserRow.id, UserRow.attributes).where(UserRow.id == bindparam("user_id"))
_HISTORY: Final = (
    select(*_INTERACTIONS)
    .where(InteractionRow.user_id == bindparam("user_id"))
    .order_by(InteractionRow.timestamp, InteractionRow.item_id)
)


#: The user and the version of the user's data; no row for an unknown user.
_USER_VERSION: Final = (
    select(
        UserRow.id,
        UserRow.attributes,
        func.count(InteractionRow.item_id).label("interactions"),
        func.coalesce(func.min(InteractionRow.last_version), 0).label("oldest"),
        func.coalesce(func.max(InteractionRow.last_version), 0).label("newest"),
    )
    .outerjoin(InteractionRow, InteractionRow.user_id == UserRow.id)
    .where(UserRow.id == bindparam("user_id"))
    .group_by(UserRow.id)
)


class PeopleRepository(Repository):
    """Users, items and interactions."""

    def user(self, user_id: str) -> User | None:
        row = self._connection.execute(_USER, {"user_id": user_id}).first()
        return None if row is None else User(id=row.id, attributes=row.attributes)

    def user_with_version(self, user_id: str) -> tuple[User, UserVersion | None] | None:
        """Return a user and the version of the user's data; None for an unknown user.

        The version is None if a process of an earlier version has written an interaction.
        """
        row = self._connection.execute(_USER_VERSION, {"user_id": user_id}).first()
        if row is None:
            return None
        version = None
        if row.oldest != UNKNOWN_VERSION:
            version = UserVersion(
                attributes=row.attributes, interactions=row.interactions, newest=row.newest
            )
        return User(id=row.id, attributes=row.attributes), version

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

    def recorded_histories(self, user_ids: Iterable[str]) -> dict[str, list[RecordedInteraction]]:
        """Return user id → history with data versions, also for users without interactions."""
        histories: dict[str, list[RecordedInteraction]] = {user_id: [] for user_id in user_ids}
        for portion in portions(histories):
            query = (
                select(*_RECORDED)
                .where(InteractionRow.user_id.in_(portion))
                .order_by(InteractionRow.timestamp, InteractionRow.item_id)
            )
            for row in self._connection.execute(query):
                histories[row[0]].append(RecordedInteraction(_interaction(row), row[4], row[5]))
        return histories

    def interactions(self) -> Iterator[Interaction]:
        """Stream all interactions in order of (user id, timestamp, item id)."""
        query = select(*_INTERACTIONS).order_by(
            InteractionRow.user_id, InteractionRow.timestamp, InteractionRow.item_id
        )
        for row in self._stream(query):
            yield _interaction(row)

    def recorded_interactions(self) -> Iterator[RecordedInteraction]:
        """Stream all interactions with their versions, in the order of `interactions`."""
        query = select(*_RECORDED).order_by(
            InteractionRow.user_id, InteractionRow.timestamp, InteractionRow.item_id
        )
        for row in self._stream(query):
            yield RecordedInteraction(_interaction(row), row.first_version, row.last_version)

    def holdout_users(self) -> set[str]:
        query = select(UserRow.id).where(UserRow.holdout.is_(True))
        return set(self._connection.execute(query).scalars())

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

    def known_users(self, user_ids: Iterable[str]) -> set[str]:
        """Return the ids of users with data."""
        known: set[str] = set()
        for portion in portions(user_ids):
            query = select(UserRow.id).where(UserRow.id.in_(portion))
            known.update(self._connection.execute(query).scalars())
        return known

    def known_items(self, item_ids: Iterable[str]) -> set[str]:
        """Return the ids that are in the catalog and not retired."""
        known: set[str] = set()
        for portion in portions(item_ids):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion), ItemRow.retired.is_(False))
            known.update(self._connection.execute(query).scalars())
        return known

    def ensure_users(self, user_ids: Iterable[str], *, holdout: Container[str] = ()) -> None:
        """Add the users that are missing, and keep the attributes of existing users.

        The added users that are in `holdout` become holdout users; existing users keep their flag.
        """
        # Sorted, so that two concurrent transactions cannot deadlock.
        rows = [
            {"id": user_id, "attributes": {}, "holdout": user_id in holdout}
            for user_id in sorted(set(user_ids))
        ]
        if rows:
            self._connection.execute(self._insert(UserRow).on_conflict_do_nothing(), rows)

    def upsert_users(self, users: Sequence[User], *, holdout: Container[str] = ()) -> None:
        """Add the users or replace their attributes; `holdout` is as in `ensure_users`."""
        rows = {
            user.id: {
                "id": user.id,
                "attributes": user.attributes,
                "holdout": user.id in holdout,
            }
            for user in users
        }
        if not rows:
            return
        insert = self._insert(UserRow)
        self._connection.execute(
            insert.on_conflict_do_update(
                index_elements=["id"], set_={"attributes": insert.excluded.attributes}
            ),
            [rows[user_id] for user_id in sorted(rows)],
        )

    def upsert_items(
        self,
        items: Sequence[NewItem],
        origin: ItemOrigin = ItemOrigin.CATALOG,
        *,
        erase: bool = True,
    ) -> None:
        """Add or change items. New items are available and get the next free item indices.

        Ratings change no item of a catalog. Without `erase`, empty titles and attributes keep the
        stored values. An item without a title has its id as title.
        """
        if not items:
            return
        known = self.items_by_id({item[0] for item in items})
        latest = {
            item[0]: _merged(known.get(item[0]), item, origin, erase=erase)
            for item in {item[0]: item for item in items}.values()
        }
        # A retired item keeps its row, so its index is never reused.
        highest = self._connection.execute(select(func.max(ItemRow.item_index))).scalar_one()
        next_index = 0 if highest is None else highest + 1
        rows = []
        for (item_id, title, attributes), item_origin in latest.values():
            values = {
                "id": item_id,
                "title": title,
                "attributes": attributes,
                "retired": False,
                "origin": None if item_origin is None else item_origin.value,
            }
            # The update of an existing item leaves out the index, so its value here has no effect.
            rows.append({**values, "item_index": next_index})
            next_index += item_id not in known
        insert = self._insert(ItemRow)
        changed = {name: insert.excluded[name] for name in ("title", "attributes", "origin")}
        self._connection.execute(
            insert.on_conflict_do_update(index_elements=["id"], set_=changed), rows
        )

    def unrated_items(self, item_ids: Iterable[str]) -> list[Item]:
        """Return those of the items that no interaction names, without retired items."""
        is_rated = exists().where(InteractionRow.item_id == ItemRow.id)
        items: list[Item] = []
        for portion in portions(item_ids):
            query = select(ItemRow.__table__).where(
                ItemRow.id.in_(portion), ItemRow.retired.is_(False), ~is_rated
            )
            items += [_item(row) for row in self._connection.execute(query)]
        return items

    def shared_titles(self, item_ids: Collection[str]) -> int:
        """Return how many of the items have the title of an item that is not among them."""
        items = self.items_by_id(item_ids).values()
        titles = {item.title for item in items if item.title not in {"", item.id}}
        shared: set[str] = set()
        for portion in portions(sorted(titles)):
            query = select(ItemRow.id, ItemRow.title).where(
                ItemRow.title.in_(portion), ItemRow.retired.is_(False)
            )
            rows = self._connection.execute(query)
            shared |= {row.title for row in rows if row.id not in item_ids}
        return sum(item.title in shared for item in items)

    def items_by_id(self, item_ids: Iterable[str]) -> dict[str, Item]:
        """Return id → item for those of the ids that are stored."""
        items: dict[str, Item] = {}
        for portion in portions(item_ids):
            query = select(ItemRow.__table__).where(ItemRow.id.in_(portion))
            items.update((row.id, _item(row)) for row in self._connection.execute(query))
        return items

    def set_available(self, item_ids: Iterable[str], *, available: bool) -> None:
        """Allow or forbid recommendations of the items."""
        for portion in portions(item_ids):
            self._changed(
                update(ItemRow).where(ItemRow.id.in_(portion)).values(available=available)
            )

    def rated_pairs(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return those (user id, item id) pairs of which an interaction is stored."""
        columns = InteractionRow.user_id, InteractionRow.item_id
        stored: set[tuple[str, str]] = set()
        for portion in portions(pairs):
            query = select(*columns).where(tuple_(*columns).in_(portion))
            stored.update((row[0], row[1]) for row in self._connection.execute(query))
        return stored

    def newer(
        self, interactions: Iterable[Interaction]
    ) -> tuple[list[Interaction], list[Interaction]]:
        """Return the interactions that change what is stored, and those older than what is stored.

        The later rating of an item by a user wins; of two at the same time, the last written one.
        Interactions that are stored with the same values are in neither list.
        """
        rows = list(interactions)
        stored: dict[tuple[str, str], Interaction] = {}
        for portion in portions(sorted({row.user_id for row in rows})):
            query = select(*_INTERACTIONS).where(InteractionRow.user_id.in_(portion))
            for row in map(_interaction, self._connection.execute(query)):
                stored[row.user_id, row.item_id] = row
        changed: list[Interaction] = []
        older: list[Interaction] = []
        for row in rows:
            present = stored.get((row.user_id, row.item_id))
            if present is not None and row.timestamp < present.timestamp:
                older.append(row)
            elif present != row:
                changed.append(row)
        return changed, older

    def upsert_interactions(self, interactions: Sequence[Interaction], version: int) -> None:
        """Add or replace interactions in a change of data with this data version.

        A row with the same rating and timestamp keeps its versions. Another value changes
        `last_version` only.
        """
        rows = {
            (row.user_id, row.item_id): {
                "user_id": row.user_id,
                "item_id": row.item_id,
                "rating": row.rating,
                "timestamp": row.timestamp,
                "first_version": version,
                "last_version": version,
            }
            for row in interactions
        }
        if not rows:
            return
        insert = self._insert(InteractionRow)
        names = ("rating", "timestamp", "last_version")
        differs = (InteractionRow.rating != insert.excluded.rating) | (
            InteractionRow.timestamp != insert.excluded.timestamp
        )
        self._connection.execute(
            insert.on_conflict_do_update(
                index_elements=["user_id", "item_id"],
                set_={name: insert.excluded[name] for name in names},
                where=differs,
            ),
            list(rows.values()),
        )

    def mark_changed(self, subject: Subject, version: int) -> None:
        """Raise `last_version` of the subject's interactions."""
        rows = update(InteractionRow).values(last_version=version)
        if subject.user_id is not None:
            rows = rows.where(InteractionRow.user_id == subject.user_id)
        if subject.scope is Scope.USER:
            self._changed(rows)
            return
        for portion in portions(subject.item_ids):
            self._changed(rows.where(InteractionRow.item_id.in_(portion)))

    def mark_all_changed(self, version: int) -> None:
        """Raise `last_version` of all interactions."""
        self._changed(update(InteractionRow).values(last_version=version))

    def has_unknown_versions(self) -> bool:
        """Return whether a process of an earlier version has written interactions."""
        query = select(exists().where(_IS_UNKNOWN))
        return bool(self._connection.execute(query).scalar_one())

    def stamp_unknown_versions(self, version: int) -> None:
        """Give a version to the interactions that processes of an earlier version wrote.

        An unknown time of the first write stays unknown: `first_version` is 0, before any release.
        """
        first = InteractionRow.first_version
        self._changed(
            update(InteractionRow)
            .where(_IS_UNKNOWN)
            .values(
                first_version=case((first == UNKNOWN_VERSION, 0), else_=first),
                last_version=version,
            )
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

    def item_ids_of(self, user_id: str, after: str, limit: int) -> list[str]:
        """Return up to `limit` items that the user rated, in order of id, after the given id."""
        query = (
            select(InteractionRow.item_id)
            .where(InteractionRow.user_id == user_id, InteractionRow.item_id > after)
            .order_by(InteractionRow.item_id)
            .limit(limit)
        )
        return list(self._connection.execute(query).scalars())

    def items_that_stay(self, item_ids: Iterable[str], without: Iterable[str]) -> list[str]:
        """Return the items that stay when the users `without` have no interactions any more.

        These are the items of a catalog, and items that ratings named and another user rated. Other
        items are retired, or lose a description that came with rows of one user.
        """
        user_ids = sorted(without)
        is_rated = exists().where(
            InteractionRow.item_id == ItemRow.id, InteractionRow.user_id.not_in(user_ids)
        )
        stays = (ItemRow.origin == ItemOrigin.CATALOG.value) | (
            (ItemRow.origin == ItemOrigin.RATINGS.value) & is_rated
        )
        items: list[str] = []
        for portion in portions(item_ids):
            query = select(ItemRow.id).where(ItemRow.id.in_(portion), stays)
            items += self._connection.execute(query).scalars()
        return items

    def some_raters_of(self, item_id: str, limit: int) -> list[str]:
        """Return up to `limit` users who rated the item, in any order."""
        query = select(InteractionRow.user_id).where(InteractionRow.item_id == item_id)
        return list(self._connection.execute(query.limit(limit)).scalars())

    def delete_ratings_of_item(self, item_id: str, user_ids: Iterable[str]) -> int:
        return sum(
            self._changed(
                delete(InteractionRow).where(
                    InteractionRow.item_id == item_id, InteractionRow.user_id.in_(portion)
                )
            )
            for portion in portions(user_ids)
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

    def clear_descriptions(self, item_ids: Iterable[str]) -> None:
        """Give items their ids as titles and no attributes; ratings named these items."""
        values = {"title": ItemRow.id, "attributes": {}, "origin": ItemOrigin.RATINGS.value}
        for portion in portions(sorted(item_ids)):
            self._connection.execute(update(ItemRow).where(ItemRow.id.in_(portion)).values(values))

    def _stream(self, query: Select[Any]) -> Iterator[Row[Any]]:
        # A sort of all interactions may take longer than any statement of a request, and counting
        # the rows longer than any pause between two statements.
        self._allow_long()
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


def _merged(
    stored: Item | None, item: NewItem, origin: ItemOrigin, *, erase: bool
) -> tuple[NewItem, ItemOrigin | None]:
    """Return the values and the origin to store for an item that this origin names."""
    item_id, title, attributes = item
    if stored is None:
        return (item_id, title or item_id, attributes), origin
    if not _may_describe(stored, origin, has_texts=bool(title or attributes)):
        return (item_id, stored.title, stored.attributes), stored.origin
    if stored.origin is ItemOrigin.RATER:
        # The new description is not deleted with the user, so none of the user's texts may stay.
        return (item_id, title or item_id, attributes), origin
    if not erase:
        title, attributes = title or stored.title, attributes or stored.attributes
    merged_origin = stored.origin if origin is ItemOrigin.RATINGS else origin
    return (item_id, title or item_id, attributes), merged_origin


def _may_describe(stored: Item, origin: ItemOrigin, *, has_texts: bool) -> bool:
    """Return whether a source may change a stored item's description."""
    if origin is ItemOrigin.CATALOG:
        return True
    if origin is ItemOrigin.RATINGS:
        is_replaced = stored.origin is not ItemOrigin.RATER or has_texts
        return stored.origin is not ItemOrigin.CATALOG and is_replaced
    return stored.origin is ItemOrigin.RATINGS and not stored.is_described


def _interaction(row: Sequence[Any]) -> Interaction:
    # Access by position: a recommendation reads hundreds of rows, and access by name is slower.
    return Interaction(user_id=row[0], item_id=row[1], rating=row[2], timestamp=row[3])
