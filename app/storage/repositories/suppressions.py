"""Suppressed users, interactions and items, by keyed hash."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update

from app.domain.requests import RequestStatus, SuppressedBy
from app.storage.clock import db_now
from app.storage.repositories.base import Repository, portions
from app.storage.tables import RequestRow, SuppressionRow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from app.domain.requests import ForgetRequest, Scope

_ACTIVE = SuppressionRow.lifted_at.is_(None)


class SuppressionRepository(Repository):
    """Suppressions of open requests, and tombstones of completed requests."""

    def add(self, subject_hashes: Iterable[str], request: ForgetRequest) -> None:
        hashes = dict.fromkeys(subject_hashes)
        self._insert_all(SuppressionRow, [_values(h, request) for h in hashes])

    def add_all(self, requests: Iterable[ForgetRequest]) -> None:
        """Suppress the subjects of new requests."""
        rows = [_values(h, request) for request in requests for h in request.subject_hashes]
        self._insert_all(SuppressionRow, rows)

    def requests_of(self, subject_hashes: Iterable[str]) -> dict[str, SuppressedBy]:
        """Return hash → the requests that suppress or have deleted it; only hashes with any."""
        # Two statements, because users without suppressions need the first one only.
        columns = (SuppressionRow.subject_hash, SuppressionRow.request_id, SuppressionRow.lifted_at)
        rows: list[tuple[str, str, datetime | None]] = []
        for portion in portions(dict.fromkeys(subject_hashes)):
            query = select(*columns).where(SuppressionRow.subject_hash.in_(portion))
            rows += [(h, request_id, at) for h, request_id, at in self._connection.execute(query)]
        completed_ids: set[str] = set()
        for portion in portions({request_id for _, request_id, _ in rows}):
            is_completed = RequestRow.status == RequestStatus.COMPLETED.value
            completed = select(RequestRow.id).where(RequestRow.id.in_(portion), is_completed)
            completed_ids.update(self._connection.execute(completed).scalars())
        suppressed_by: dict[str, SuppressedBy] = {}
        for subject_hash, request_id, lifted_at in sorted(rows, key=itemgetter(1)):
            known = suppressed_by.get(subject_hash, SuppressedBy())
            if lifted_at is None and known.active is None:
                known = replace(known, active=request_id)
            if request_id in completed_ids:
                known = replace(known, completed=request_id)
            suppressed_by[subject_hash] = known
        return suppressed_by

    def lift(self, request_id: str) -> None:
        """Delete the suppressions of a request."""
        self._connection.execute(
            delete(SuppressionRow).where(SuppressionRow.request_id == request_id)
        )

    def lift_hash(self, subject_hash: str) -> bool:
        """Mark the suppressions of a hash as lifted. Return whether there were any.

        The rows stay, so that the request can still be found by the hash.
        """
        lifted = self._changed(
            update(SuppressionRow)
            .where(SuppressionRow.subject_hash == subject_hash, _ACTIVE)
            .values(lifted_at=db_now())
        )
        return lifted > 0

    def lift_of(self, request_id: str, subject_hashes: Iterable[str]) -> None:
        """Mark these suppressions of one request as lifted."""
        for portion in portions(subject_hashes):
            self._connection.execute(
                update(SuppressionRow)
                .where(
                    SuppressionRow.request_id == request_id,
                    SuppressionRow.subject_hash.in_(portion),
                    _ACTIVE,
                )
                .values(lifted_at=db_now())
            )

    def lifted(self) -> dict[str, list[str]]:
        """Return request id → the hashes that consent has lifted."""
        query = select(SuppressionRow.request_id, SuppressionRow.subject_hash).where(~_ACTIVE)
        lifted: dict[str, list[str]] = {}
        for request_id, subject_hash in self._connection.execute(query):
            lifted.setdefault(request_id, []).append(subject_hash)
        return lifted

    def lifted_since(self, request_ids: Iterable[str]) -> dict[str, datetime]:
        """Return request id → the time of the first lifted suppression; only lifted ones."""
        lifted: dict[str, datetime] = {}
        for portion in portions(request_ids):
            rows = self._connection.execute(
                select(SuppressionRow.request_id, func.min(SuppressionRow.lifted_at))
                .where(
                    SuppressionRow.request_id.in_(portion), SuppressionRow.lifted_at.is_not(None)
                )
                .group_by(SuppressionRow.request_id)
            )
            lifted.update({request_id: since for request_id, since in rows if since is not None})
        return lifted

    def matching(self, subject_hashes: Iterable[str]) -> set[str]:
        """Return the suppressed hashes among the given ones."""
        suppressed: set[str] = set()
        for portion in portions(dict.fromkeys(subject_hashes)):
            suppressed.update(
                self._connection.execute(
                    select(SuppressionRow.subject_hash).where(
                        SuppressionRow.subject_hash.in_(portion), _ACTIVE
                    )
                ).scalars()
            )
        return suppressed

    def hashes_of(self, scope: Scope) -> set[str]:
        """Return the suppressed hashes of this scope."""
        query = select(SuppressionRow.subject_hash).where(
            _ACTIVE, SuppressionRow.scope == scope.value
        )
        return set(self._connection.execute(query).scalars())

    def all_hashes(self) -> set[str]:
        return set(
            self._connection.execute(select(SuppressionRow.subject_hash).where(_ACTIVE)).scalars()
        )


def _values(subject_hash: str, request: ForgetRequest) -> dict[str, Any]:
    """Return the column values of a new suppression."""
    return {
        "subject_hash": subject_hash,
        "request_id": request.id,
        "scope": request.scope.value,
        "created_at": request.created_at,
    }
