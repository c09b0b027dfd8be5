"""The state that every recommendation is checked against, as one snapshot of the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.catalog import User
    from app.domain.releases import Alias


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentChanges:
    """The entries of the change log after a given data version, up to the snapshot's version."""

    #: Whether the log still has all of these entries. A shortened log may have lost a deletion.
    is_complete: bool = True
    #: The newest version of a deletion or of a change of the catalog; 0 without one.
    overtaking: int = 0
    #: The newest version of a canceled deletion; 0 without one.
    cancel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A stored user, and whether the user's own data changed after the given data version."""

    user: User
    is_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state that every recommendation is checked against."""

    data_version: int
    alias: Alias
    #: The suppressed hashes among the hashes of the query.
    suppressed: frozenset[str]
    #: Whether deletions are repeated after a restore, so that the weights may know forgotten rows.
    is_restoring: bool = False
    #: User id → asker, for the users of the query that are stored.
    askers: Mapping[str, Asker] = field(default_factory=dict)
    changes: RecentChanges = field(default_factory=RecentChanges)
