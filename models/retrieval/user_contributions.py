"""Store the contributions of all users so that a copy costs little, however many users there are.

Users are spread over a fixed number of dictionaries. A copy shares all of them, and a change copies
only the dictionary of the changed user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.retrieval.contributions import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from models.retrieval.contributions import Contribution

#: With a million users, a change copies about a thousand references.
_SHARDS: Final = 1024


class UserContributions:
    """A map from user ids to contributions. A copy may be read while the original changes."""

    def __init__(self, contributions: Mapping[str, Contribution] | None = None) -> None:
        """Take the initial contributions, which must not be empty."""
        self._shards: list[dict[str, Contribution]] = [{} for _ in range(_SHARDS)]
        #: The numbers of the shards that no copy shares.
        self._owned = set(range(_SHARDS))
        self._count = 0
        for user_id, contribution in (contributions or {}).items():
            self[user_id] = contribution

    def copy(self) -> UserContributions:
        """Return a copy; later changes of one of the two do not reach the other."""
        copy = UserContributions()
        copy._shards, copy._count = list(self._shards), self._count
        copy._owned, self._owned = set(), set()
        return copy

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, user_id: str) -> Contribution:
        """Return a user's contribution, which is empty for an unknown user."""
        return self._shards[hash(user_id) % _SHARDS].get(user_id, NOTHING)

    def __setitem__(self, user_id: str, contribution: Contribution) -> None:
        """Replace a user's contribution; an empty contribution removes the user."""
        number = hash(user_id) % _SHARDS
        if number not in self._owned:
            self._shards[number] = dict(self._shards[number])
            self._owned.add(number)
        shard = self._shards[number]
        self._count -= user_id in shard
        if len(contribution.rated):
            shard[user_id] = contribution
            self._count += 1
        else:
            shard.pop(user_id, None)

    def items(self) -> Iterator[tuple[str, Contribution]]:
        """Return (user id, contribution) of all users, in no particular order."""
        for shard in self._shards:
            yield from shard.items()
