"""What every engine's wire format has to say: questions as token ids, loading, unloading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A path and the JSON that is posted to it.
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """N ≥ 1 prompts: the tokens that all begin with, and of each the rest, a token at least."""

    shared: list[int]
    rests: list[list[int]]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Split whole prompts of one token at least: joined again they are what was tokenised."""
        shortest = min(map(len, rows)) - 1
        length = next(
            (at for at in range(shortest) if any(row[at] != rows[0][at] for row in rows)), shortest
        )
        return cls(shared=list(rows[0][:length]), rests=[list(row[length:]) for row in rows])

    def __len__(self) -> int:
        return len(self.rests)

    @property
    def whole(self) -> list[list[int]]:
        """Return the prompts as they were."""
        return [self.shared + rest for rest in self.rests]


class Wire(Protocol):
    """One engine's way of saying it. Stateless."""

    def load(self, adapter: str, path: str) -> Call:
        """Return how the engine is told to load the adapter in the directory `path`."""

    def unload(self, adapter: str) -> Call:
        """Return how the engine is told to let go of the adapter."""

    def query(self, adapter: str, prompts: Prompts, answers: tuple[int, int], salt: str) -> Call:
        """Return how the adapter is asked for its probabilities of the two answers' tokens.

        No state is reused that was cached under another `salt`.
        """

    def scores(self, content: Any, adapter: str, prompts: Prompts) -> list[Any]:
        """Read N × P(first answer) out of the JSON that came back.

        Raises ValueError, or what Python raises where the JSON is not as promised.
        """
