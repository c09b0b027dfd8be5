"""Which ids are forgotten, and what is said of those that are refused for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ForgottenPersonError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.services.ports import UnitOfWork


def forgotten_ids(uow: UnitOfWork, hashes: Mapping[str, str]) -> set[str]:
    """Return those of the ids, given by their keyed hashes, that are suppressed."""
    return {hashes[found] for found in uow.suppressions.matching(hashes)}


def refuse_forgotten(uow: UnitOfWork, hashes: Mapping[str, str]) -> None:
    """Raise ForgottenPersonError, naming them, where any of the ids is suppressed."""
    forgotten = forgotten_ids(uow, hashes)
    if forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(forgotten)))
