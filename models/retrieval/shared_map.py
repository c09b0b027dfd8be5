"""A map from user ids whose copies cost little, however many users there are.

Users are spread over a fixed number of dictionaries. A copy shares all of them, and a change copies
only the dictionary of the changed user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

V = TypeVar("V")

#: With a million users, a change copies about a thousand references.
_SHARDS: Final = 1024


class SharedMap(Generic[V]):
    """A map from user ids to values. A copy may be read while the original changes."""

    def __init__(self, values: Mapping[str, V] | None = None) -> None:
        """Take the initial values."""
        self._shards: list[dict[str, V]] = [{} for _ in range(_SHARDS)]
        #: The numbers of the shards that no copy shares.
        self._owned = set(range(_SHARDS))
        self._count = 0
        for user_id, value in (values or {}).items():
            self.put(user_id, value)

    def copy(self) -> Self:
        """Return a copy; later changes of one of the two do not reach the other."""
        copy = type(self)()
        copy._shards, copy._count = list(self._shards), self._count  # noqa: SLF001
        copy._owned, self._owned = set(), set()  # noqa: SLF001
        return copy

    def __len__(self) -> int:
        return self._count

    def get(self, user_id: str) -> V | None:
        """Return a user's value; None for an unknown user."""
        return self._shards[hash(user_id) % _SHARDS].get(user_id)

    def put(self, user_id: str, value: V | None) -> None:
        """Replace a user's value; None removes the user."""
        number = hash(user_id) % _SHARDS
        if number not in self._owned:
            self._shards[number] = dict(self._shards[number])
            self._owned.add(number)
        shard = self._shards[number]
        self._count -= user_id in shard
        if value is None:
            shard.pop(user_id, None)
        else:
            shard[user_id] = value
            self._count += 1

    def items(self) -> Iterator[tuple[str, V]]:
        """Return (user id, value) of all users, in no particular order."""
        for shard in self._shards:
            yield from shard.items()
