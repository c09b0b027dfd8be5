"""The id rule, and the renaming of stored ids when the rule is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    and_,
    bindparam,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from app.domain.requests import RequestStatus
from app.storage.repositories.base import Repository, portions, table_of
from app.storage.tables import (
    DataChangeRow,
    InteractionRow,
    ItemRow,
    RequestRow,
    StateRow,
    SuppressionRow,
    UserRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy.orm import InstrumentedAttribute

    from app.domain.requests import ForgetRequest, Subject

_STREAM_ROWS: Final = 2000
#: Holds the index of an item while a second row of the item exists; indices are never negative.
_NO_INDEX: Final = -1


class IdentityRepository(Repository):
    """The id rule, and renaming."""

    def rule(self) -> str | None:
        """Return the rule that was stored at the first start."""
        return self._connection.execute(select(StateRow.id_rule)).scalar_one()

    def store_rule(self, rule: str) -> None:
        self._connection.execute(update(StateRow).values(id_rule=rule))

    def user_ids(self) -> Iterator[str]:
        """Stream the ids of all users."""
        return self._stream(UserRow.id)

    def item_ids(self) -> Iterator[str]:
        """Stream the ids of all items that are not retired, in order of item index."""
        query = select(ItemRow.id).where(ItemRow.retired.is_(False)).order_by(ItemRow.item_index)
        options = {"stream_results": True, "yield_per": _STREAM_ROWS}
        yield from self._connection.execute(query, execution_options=options).scalars()

    def logged_ids(self) -> Iterator[str]:
        """Stream the user ids of the change log."""
        for user_id in self._stream(DataChangeRow.user_id):
            if user_id is not None:
                yield user_id

    def set_holdout(self, user_ids: Iterable[str], *, holdout: bool) -> None:
        for portion in portions(user_ids):
            self._changed(update(UserRow).where(UserRow.id.in_(portion)).values(holdout=holdout))

    def rename_in_log(self, new_ids: Mapping[str, str]) -> None:
        """Write the new ids of users into the change log."""
        if new_ids:
            self._connection.execute(
                update(table_of(DataChangeRow))
                .where(DataChangeRow.user_id == bindparam("old"))
                .values(user_id=bindparam("new")),
                [{"old": old, "new": new} for old, new in new_ids.items()],
            )

    def known_users(self, user_ids: Iterable[str]) -> set[str]:
        """Return the ids among these that users have."""
        known: set[str] = set()
        for portion in portions(user_ids):
            query = select(UserRow.id).where(UserRow.id.in_(portion))
            known.update(self._connection.execute(query).scalars())
        return known

    def rename_users(self, new_ids: Mapping[str, str]) -> None:
        """Give users other ids, which are distinct and which no user has."""
        if not new_ids:
            return
        old = bindparam("old", type_=UserRow.id.type)
        new = bindparam("new", type_=UserRow.id.type)
        copied = select(new, UserRow.attributes, UserRow.holdout).where(UserRow.id == old)
        columns = ["id", "attributes", "holdout"]
        ratings = table_of(InteractionRow)
        for statement in (
            insert(table_of(UserRow)).from_select(columns, copied),
            update(ratings).where(ratings.c.user_id == old).values(user_id=new),
            delete(table_of(UserRow)).where(table_of(UserRow).c.id == old),
        ):
            self._connection.execute(
                statement, [{"old": old_id, "new": new_id} for old_id, new_id in new_ids.items()]
            )

    def rename_user(self, old: str, new: str) -> None:
        """Give the user's row and interactions another id. If the new id exists, merge the users.

        The attributes of the new id win.
        """
        query = select(UserRow.id, UserRow.attributes, UserRow.holdout).where(
            UserRow.id.in_([old, new])
        )
        rows = {row.id: row for row in self._connection.execute(query)}
        source, target = rows[old], rows.get(new)
        if target is None:
            self._connection.execute(
                insert(UserRow).values(id=new, attributes=source.attributes, holdout=source.holdout)
            )
        else:
            # A person is a holdout user only if no row of any spelling was ever trained on.
            self._connection.execute(
                update(UserRow)
                .where(UserRow.id == new)
                .values(
                    attributes={**source.attributes, **target.attributes},
                    holdout=source.holdout and target.holdout,
                )
            )
        self._move_interactions(InteractionRow.user_id, InteractionRow.item_id, old, new)
        self._connection.execute(delete(UserRow).where(UserRow.id == old))

    def rename_item(self, old: str, new: str) -> None:
        """Give the item's row and interactions another id, which no other row has."""
        row = self._connection.execute(select(ItemRow.__table__).where(ItemRow.id == old)).one()
        self._connection.execute(
            update(ItemRow).where(ItemRow.id == old).values(item_index=_NO_INDEX)
        )
        values = {column.key: getattr(row, column.key) for column in table_of(ItemRow).columns}
        self._connection.execute(insert(table_of(ItemRow)).values({**values, "id": new}))
        self.move_ratings(old, new)
        self._connection.execute(delete(ItemRow).where(ItemRow.id == old))

    def move_ratings(self, old: str, new: str) -> None:
        """Move the ratings of an item to another item; of two by one user, keep the later."""
        self._move_interactions(InteractionRow.item_id, InteractionRow.user_id, old, new)

    def rewrite_request(
        self, request: ForgetRequest, subject: Subject, hashes: Iterable[str]
    ) -> None:
        """Replace the plain ids of a request, and suppress further hashes for the request."""
        added = [h for h in dict.fromkeys(hashes) if h not in request.subject_hashes]
        self._connection.execute(
            update(RequestRow)
            .where(RequestRow.id == request.id)
            .values(
                user_id=subject.user_id,
                item_ids=list(subject.item_ids),
                subject_hashes=[*request.subject_hashes, *added],
            )
        )
        if added:
            self._connection.execute(
                insert(SuppressionRow),
                [
                    {
                        "subject_hash": subject_hash,
                        "request_id": request.id,
                        "scope": request.scope.value,
                        "created_at": request.created_at,
                    }
                    for subject_hash in added
                ],
            )

    def named_request_ids(self) -> list[str]:
        """Return the ids of the requests that have plain ids of users or items."""
        named = RequestRow.user_id.is_not(None) | RequestRow.item_ids.is_not(None)
        return list(self._connection.execute(select(RequestRow.id).where(named)).scalars())

    def tombstones(self) -> set[str]:
        """Return the suppressed hashes of completed requests."""
        query = (
            select(SuppressionRow.subject_hash)
            .join(RequestRow, RequestRow.id == SuppressionRow.request_id)
            .where(
                SuppressionRow.lifted_at.is_(None),
                RequestRow.status == RequestStatus.COMPLETED.value,
            )
        )
        return set(self._connection.execute(query).scalars())

    def _move_interactions(
        self,
        column: InstrumentedAttribute[str],
        other: InstrumentedAttribute[str],
        old: str,
        new: str,
    ) -> None:
        """Change `column` from `old` to `new`; of two rows for one `other`, keep the later."""
        rival = aliased(InteractionRow)
        rival_column, rival_other = getattr(rival, column.key), getattr(rival, other.key)
        same = and_(rival_other == other, or_(column == old, column == new))
        is_older = exists().where(
            same,
            or_(
                and_(
                    column == old, rival_column == new, rival.timestamp >= InteractionRow.timestamp
                ),
                and_(
                    column == new, rival_column == old, rival.timestamp > InteractionRow.timestamp
                ),
            ),
        )
        self._changed(
            delete(InteractionRow)
            .where(column.in_([old, new]), is_older)
            .execution_options(synchronize_session=False)
        )
        self._changed(update(InteractionRow).where(column == old).values({column.key: new}))

    def _stream(self, column: InstrumentedAttribute[Any]) -> Iterator[Any]:
        options = {"stream_results": True, "yield_per": _STREAM_ROWS}
        return iter(self._connection.execute(select(column), execution_options=options).scalars())
