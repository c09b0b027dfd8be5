"""The one statement that every recommendation is checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, case, exists, func, select, true

from app.domain.catalog import CATALOG_KINDS, USER_KINDS, User
from app.domain.releases import Alias
from app.domain.standing import Asker, RecentChanges, Standing
from app.storage.repositories.releases import LIVE
from app.storage.tables import AliasRow, DataChangeRow, StateRow, SuppressionRow, UserRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

#: A version after all entries of the change log.
_NEVER: Final = 2**62
_OVERTAKING_KINDS: Final = sorted({"forget", *CATALOG_KINDS})
#: The log entries after version `since`, in one row.
_RECENT: Final = (
    select(
        func.min(DataChangeRow.version).label("first"),
        func.max(case((DataChangeRow.kind.in_(_OVERTAKING_KINDS), DataChangeRow.version))).label(
            "overtaking"
        ),
        func.max(case((DataChangeRow.kind == "cancel", DataChangeRow.version))).label("cancel"),
    )
    .where(DataChangeRow.version > bindparam("since"))
    .subquery()
)
#: Whether an entry after version `since` concerns the user, or may concern any user.
_IS_CHANGED: Final = exists().where(
    DataChangeRow.version > bindparam("since"),
    DataChangeRow.kind.in_(sorted(USER_KINDS)),
    (DataChangeRow.user_id == UserRow.id) | DataChangeRow.user_id.is_(None),
)
#: Built once, because every recommendation runs the query at least twice. A row per suppressed hash
#: and user, at least one.
_STANDING: Final = (
    select(
        StateRow.data_version,
        AliasRow.live,
        AliasRow.target,
        AliasRow.generation,
        StateRow.restoring,
        _RECENT.c.first,
        _RECENT.c.overtaking,
        _RECENT.c.cancel,
        SuppressionRow.subject_hash,
        UserRow.id,
        UserRow.attributes,
        _IS_CHANGED,
    )
    .select_from(StateRow)
    .join(AliasRow, AliasRow.name == LIVE)
    .join(_RECENT, true())
    .outerjoin(UserRow, UserRow.id.in_(bindparam("user_ids", expanding=True)))
    .outerjoin(
        SuppressionRow,
        SuppressionRow.subject_hash.in_(bindparam("hashes", expanding=True))
        & SuppressionRow.lifted_at.is_(None),
    )
)


def read_standing(
    connection: Connection,
    subject_hashes: Iterable[str],
    since: int | None,
    user_ids: Iterable[str],
) -> Standing:
    """Return the state, the suppressed hashes and the users; see `StateRepository.standing`."""
    parameters = {
        "hashes": list(subject_hashes),
        "user_ids": list(user_ids),
        "since": _NEVER if since is None else since,
    }
    rows = connection.execute(_STANDING, parameters).all()
    # Access by position: every recommendation reads this twice, and access by name is slower.
    version, live, target, generation, restoring, first, overtaking, cancel = rows[0][:8]
    return Standing(
        data_version=version,
        alias=Alias(live=live, target=target, generation=generation),
        suppressed=frozenset(row[8] for row in rows if row[8] is not None),
        is_restoring=restoring > 0,
        askers={
            row[9]: Asker(user=User(id=row[9], attributes=row[10]), is_changed=bool(row[11]))
            for row in rows
            if row[9] is not None
        },
        changes=RecentChanges(
            is_complete=since is None or version <= since or first == since + 1,
            overtaking=overtaking or 0,
            cancel=cancel or 0,
        ),
    )
