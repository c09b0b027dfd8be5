"""Define the wire format of a serving engine: scoring token ids, loading and unloading adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A path and the JSON body to post to it.
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """N ≥ 1 prompts as token ids: a common prefix and the rest of each, at least one token."""

    shared: list[int]
    rests: list[list[int]]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Split prompts of at least one token each at their first difference."""
        shortest = min(map(len, rows)) - 1
        length = next(
            (at for at in range(shortest) if any(row[at] != rows[0][at] for row in rows)), shortest
        )
        return cls(shared=list(rows[0][:length]), rests=[list(row[length:]) for row in rows])

    def __len__(self) -> int:
        return len(self.rests)

    @property
    def whole(self) -> list[list[int]]:
        """Return the unsplit prompts."""
        return [self.shared + rest for rest in self.rests]


class Wire(Protocol):
    """The HTTP requests and responses of one kind of engine. Stateless."""

    def load(self, adapter: str, path: str) -> Call:
        """Return the request that loads the adapter in the directory `path`."""

    def unload(self, adapter: str) -> Call:
        """Return the request that unloads the adapter."""

    def query(self, adapter: str, prompts: Prompts, answers: tuple[int, int], salt: str) -> Call:
        """Return the request for the adapter's probabilities of the two answer tokens.

        The engine must not reuse states that it cached under another `salt`.
        """

    def scores(self, content: Any, adapter: str, prompts: Prompts) -> list[Any]:
        """Read N × P(first answer) from the response's JSON.

        Raises ValueError, KeyError, TypeError or IndexError for JSON of another form.
        """
