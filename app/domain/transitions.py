"""Check a change of status against a table of allowed changes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from app.domain.errors import IllegalTransitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S", bound=StrEnum)


def check_transition(kind: str, allowed: Mapping[S, frozenset[S]], old: S, new: S) -> None:
    """Raise IllegalTransitionError unless `allowed` has the change from `old` to `new`."""
    if new not in allowed.get(old, frozenset()):
        raise IllegalTransitionError(kind=kind, old=old, new=new)
