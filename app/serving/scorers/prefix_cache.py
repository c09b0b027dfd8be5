"""Keeps what a model made of people's histories, up to a limit in bytes. Knows no release.

A scorer owns one, so that nothing in it outlives the weights it was made with.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from models.inference.shared_prefix import Prefix


class PrefixCache:
    """One prefix per person; beyond the limit, who asked least recently goes first. Thread-safe.

    What is found is known by its tokens: a changed history finds nothing.
    """

    def __init__(self, limit: int) -> None:
        """Hold at most `limit` bytes of keys and values; 0 holds nothing."""
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Prefix] = OrderedDict()
        self._nbytes = 0
        self._forgotten = 0

    @property
    def nbytes(self) -> int:
        """Return how many bytes of keys and values are held."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def find(
        self, user_id: str, tokens: torch.Tensor, candidates: int
    ) -> tuple[Prefix | None, int]:
        """Return a prefix that begins [h] `tokens`, or None; and what `keep` has to be told.

        Candidates read by themselves what a shorter one lacks: it is of use while that is less
        than reading all of `tokens` again.
        """
        with self._lock:
            kept, moment = self._kept.get(user_id), self._forgotten
            if kept is not None:
                self._kept.move_to_end(user_id)
        if kept is None:
            return None, moment
        length = min(len(kept), len(tokens))
        same = bool((kept.tokens[:length] == tokens[:length]).all())
        useful = (len(tokens) - length) * candidates <= len(tokens)
        return kept.truncate(length) if same and useful else None, moment

    def keep(self, user_id: str, prefix: Prefix, moment: int) -> None:
        """Hold this prefix, unless anybody was forgotten since `find` gave `moment`.

        That it may be somebody else's forgetting costs one reading; an account of who was
        forgotten when would itself have to be forgotten.
        """
        with self._lock:
            if moment != self._forgotten or prefix.nbytes > self._limit:
                return
            self._drop(user_id)
            self._kept[user_id] = prefix
            self._nbytes += prefix.nbytes
            while self._nbytes > self._limit:
                self._drop(next(iter(self._kept)))

    def forget(self, user_id: str | None) -> None:
        """Drop what is held of this person, or of everybody, and what is being made right now."""
        with self._lock:
            self._forgotten += 1
            for each in [*self._kept] if user_id is None else [user_id]:
                self._drop(each)

    def _drop(self, user_id: str) -> None:
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            self._nbytes -= kept.nbytes
