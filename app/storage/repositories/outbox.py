"""Wake-up messages that a relay still has to send to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, exists, func, insert, literal, select, update

from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import OutboxRow

if TYPE_CHECKING:
    from collections.abc import Sequence


#: The longest pause between two messages about the same job, in seconds.
_MAX_PAUSE: Final = 300.0


class OutboxRepository(Repository):
    """Wake-up messages, written in the transaction of the change that requires them."""

    def add(self, topic: str, entity_id: str) -> None:
        """Record a message unless an equal one is still unsent."""
        unsent = exists().where(
            OutboxRow.topic == topic, OutboxRow.entity_id == entity_id, OutboxRow.sent_at.is_(None)
        )
        values = select(literal(str(topic)), literal(entity_id), db_now()).where(~unsent)
        self._connection.execute(
            insert(OutboxRow).from_select(["topic", "entity_id", "created_at"], values)
        )

    def repeat(self, topic: str, entity_id: str) -> None:
        """Record a message again, in case that the broker lost the earlier ones.

        The pauses between messages double up to `_MAX_PAUSE`, so that the messages for a job that
        no worker takes do not fill the broker.
        """
        of_entity = (OutboxRow.topic == topic) & (OutboxRow.entity_id == entity_id)
        first = select(func.min(OutboxRow.created_at)).where(of_entity).scalar_subquery()
        is_recent = exists().where(
            of_entity,
            OutboxRow.sent_at > (db_now() + first) / 2,
            OutboxRow.sent_at > db_now() - _MAX_PAUSE,
        )
        if not self._connection.execute(select(is_recent)).scalar_one():
            self.add(topic, entity_id)

    def pending(self, limit: int) -> list[tuple[int, str, str]]:
        """Return unsent (outbox id, topic, entity id), oldest first; locked for this relay."""
        rows = self._connection.execute(
            select(OutboxRow.id, OutboxRow.topic, OutboxRow.entity_id)
            .where(OutboxRow.sent_at.is_(None))
            .order_by(OutboxRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [(row.id, row.topic, row.entity_id) for row in rows]

    def mark_sent(self, outbox_ids: Sequence[int]) -> None:
        self._connection.execute(
            update(OutboxRow).where(OutboxRow.id.in_(outbox_ids)).values(sent_at=db_now())
        )

    def overdue(self, seconds: float) -> int:
        """Count the messages that have been unsent for longer than this."""
        unsent = select(OutboxRow.id).where(
            OutboxRow.sent_at.is_(None), OutboxRow.created_at < db_now() - seconds
        )
        return len(self._connection.execute(unsent).all())

    def prune(self, older_than_seconds: float) -> None:
        """Delete messages that were sent longer ago than this."""
        over = db_now() - older_than_seconds
        self._connection.execute(delete(OutboxRow).where(OutboxRow.sent_at < over))
