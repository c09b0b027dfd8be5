"""The methods by name. Adding one is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.unlearning.e2urec_fast import E2URecFast

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.unlearning.base import UnlearningMethod

METHODS: Final[dict[str, Callable[[], UnlearningMethod]]] = {
    E2URecFast.name: E2URecFast,
}


class UnknownMethodError(ValueError):
    """There is no such unlearning method."""


def get_method(name: str) -> UnlearningMethod:
    """Return the method of this name; raises UnknownMethodError that lists those there are."""
    if name not in METHODS:
        raise UnknownMethodError(f"no method {name!r}; there are: {', '.join(sorted(METHODS))}")
    return METHODS[name]()
