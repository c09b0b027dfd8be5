"""Releases, and the alias that points to the live release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, tuple_, update

from app.domain.errors import NotFoundError, ReleaseExistsError
from app.domain.releases import Alias, Release, ReleaseStatus
from app.domain.requests import Outcome
from app.storage.repositories.base import Repository
from app.storage.tables import AliasRow, ReleaseRow

if TYPE_CHECKING:
    from sqlalchemy import Row, Select

LIVE: Final = "live"
#: The `method` of releases whose job trained from scratch. All others inherit their training time.
_FROM_SCRATCH: Final = "retrain"
#: Fields of the domain object that are columns of the same name and type.
_PLAIN: Final = (
    "digest",
    "parent",
    "job_id",
    "method",
    "path",
    "metrics",
    "training_seconds",
    "training_rows",
    "forgotten_rows",
    "drift",
    "created_at",
    "live_at",
    "shredded_at",
)


class ReleaseRepository(Repository):
    """Releases and the single alias, `live`."""

    def add(self, release: Release) -> None:
        """Record a release, or replace a release that never served.

        Raises ReleaseExistsError if the release has served.
        """
        values = {name: getattr(release, name) for name in _PLAIN} | _enums(release)
        existing = self.get(release.id)
        if existing is None:
            self._connection.execute(insert(ReleaseRow).values(id=release.id, **values))
        elif existing.live_at is None:
            self._write(release.id, values)
        else:
            raise ReleaseExistsError(release_id=release.id)

    def get(self, release_id: str) -> Release | None:
        row = self._connection.execute(_releases().where(ReleaseRow.id == release_id)).first()
        return None if row is None else _to_domain(row)

    def update(self, release_id: str, **changes: Any) -> None:
        release = self.get(release_id)
        if release is None:
            raise NotFoundError(f"The release {release_id} does not exist.")
        changed = release.evolve(**changes)  # Raises IllegalTransitionError.
        plain = {name: getattr(changed, name) for name in changes if name in _PLAIN}
        self._write(release_id, plain | _enums(changed))

    def page(self, limit: int, cursor: str | None) -> list[Release]:
        query = _releases().order_by(ReleaseRow.created_at.desc(), ReleaseRow.id.desc())
        if cursor is not None:
            # Release ids do not sort by time, so the query compares with the row of the cursor.
            cursor_key = select(ReleaseRow.created_at, ReleaseRow.id).where(ReleaseRow.id == cursor)
            before = tuple_(ReleaseRow.created_at, ReleaseRow.id) < cursor_key.scalar_subquery()
            query = query.where(before)
        return [_to_domain(row) for row in self._connection.execute(query.limit(limit))]

    def unshredded(self) -> list[Release]:
        """Return all releases that are not shredded, oldest first."""
        query = (
            _releases()
            .where(ReleaseRow.status != ReleaseStatus.SHREDDED.value)
            .order_by(ReleaseRow.created_at, ReleaseRow.id)
        )
        return [_to_domain(row) for row in self._connection.execute(query)]

    def recent_trainings(self, limit: int = 3) -> list[float]:
        """Return the seconds of the last trainings from scratch, newest first."""
        query = (
            select(ReleaseRow.training_seconds)
            .where(ReleaseRow.method == _FROM_SCRATCH, ReleaseRow.training_seconds.is_not(None))
            .order_by(ReleaseRow.created_at.desc(), ReleaseRow.id.desc())
        )
        return [row.training_seconds for row in self._connection.execute(query.limit(limit))]

    def alias(self) -> Alias:
        row = self._connection.execute(
            select(AliasRow.live, AliasRow.target, AliasRow.generation).where(AliasRow.name == LIVE)
        ).one()
        return Alias(live=row.live, target=row.target, generation=row.generation)

    def set_target(self, release_id: str | None) -> None:
        """Set the release that replicas prepare, or clear it."""
        self._connection.execute(
            update(AliasRow).where(AliasRow.name == LIVE).values(target=release_id)
        )

    def flip(self, expected: Alias, release_id: str) -> bool:
        """Point the alias to the release and clear the target.

        Return False if the live release or the generation differ from `expected`.
        """
        changed = self._changed(
            update(AliasRow)
            .where(
                AliasRow.name == LIVE,
                AliasRow.generation == expected.generation,
                AliasRow.live.is_not_distinct_from(expected.live),
            )
            .values(live=release_id, target=None, generation=expected.generation + 1)
        )
        return changed == 1

    def _write(self, release_id: str, values: dict[str, Any]) -> None:
        self._connection.execute(
            update(ReleaseRow).where(ReleaseRow.id == release_id).values(**values)
        )


def _releases() -> Select[Any]:
    return select(ReleaseRow.__table__)


def _enums(release: Release) -> dict[str, Any]:
    outcome = release.outcome
    return {"status": release.status.value, "outcome": None if outcome is None else outcome.value}


def _to_domain(row: Row[Any]) -> Release:
    return Release(
        id=row.id,
        status=ReleaseStatus(row.status),
        outcome=None if row.outcome is None else Outcome(row.outcome),
        **{name: getattr(row, name) for name in _PLAIN},
    )
