"""Cache the states that a model computed from users' histories, up to a limit in bytes.

Each scorer owns one cache, so that no state outlives the weights that computed it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from models.inference.shared_prefix import Prefix


class PrefixCache:
    """One prefix per user, with least-recently-used eviction. Thread-safe.

    A cached prefix is compared by its tokens, so a changed history is a cache miss.
    """

    def __init__(self, limit: int) -> None:
        """Hold at most `limit` bytes of keys and values; 0 disables the cache."""
        self._limit = limit
        self._lock = threading.Lock()
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        self._nbytes = 0
        #: The number of `forget` calls so far.
        self._generation = 0

    def find(
        self, user_id: str, tokens: torch.Tensor, candidates: int
    ) -> tuple[Prefix | None, int]:
        """Return a cached prefix of the [h] `tokens`, or None, and the generation for `keep`.

        The prefix may be shorter than `tokens`. Then each candidate has to read the missing
        tokens, so the prefix is returned only if this is at most the work of reading all `tokens`.
        """
        with self._lock:
            prefix, generation = self._prefixes.get(user_id), self._generation
            if prefix is not None:
                self._prefixes.move_to_end(user_id)
        if prefix is None:
            return None, generation
        length = min(len(prefix), len(tokens))
        is_same = bool((prefix.tokens[:length] == tokens[:length]).all())
        is_useful = (len(tokens) - length) * candidates <= len(tokens)
        return prefix.truncate(length) if is_same and is_useful else None, generation

    def keep(self, user_id: str, prefix: Prefix, generation: int) -> None:
        """Cache a prefix, unless `forget` was called since `find` returned `generation`.

        Race: a user is forgotten after `find` and before `keep`, while the model reads the
        history; without the check, the forgotten user's states would enter the cache. The check
        covers all users: a record of which user was forgotten would itself have to be forgotten,
        and dropping another user's prefix only costs reading the history once more.
        """
        with self._lock:
            if generation != self._generation or prefix.nbytes > self._limit:
                return
            self._drop(user_id)
            self._prefixes[user_id] = prefix
            self._nbytes += prefix.nbytes
            while self._nbytes > self._limit:
                self._drop(next(iter(self._prefixes)))

    def forget(self, user_id: str | None) -> None:
        """Drop the prefix of this user, or of all users, and reject prefixes being computed."""
        with self._lock:
            self._generation += 1
            for dropped_id in [*self._prefixes] if user_id is None else [user_id]:
                self._drop(dropped_id)

    def _drop(self, user_id: str) -> None:
        prefix = self._prefixes.pop(user_id, None)
        if prefix is not None:
            self._nbytes -= prefix.nbytes
