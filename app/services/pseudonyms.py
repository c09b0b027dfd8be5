"""Keyed hashes of users, interactions and items, stored where plain ids must not be stored."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.domain.requests import Scope

if TYPE_CHECKING:
    from app.domain.requests import Subject


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """HMAC-SHA256 with the installation's hash key, a secret that all its processes share."""

    key: bytes = field(repr=False)

    def _digest(self, *parts: str) -> str:
        # The lengths give ("a", "bc") and ("ab", "c") different messages.
        message = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.new(self.key, message.encode(), hashlib.sha256).hexdigest()

    def user(self, user_id: str) -> str:
        return self._digest("user", user_id)

    def interaction(self, user_id: str, item_id: str) -> str:
        return self._digest("interaction", user_id, item_id)

    def item(self, item_id: str) -> str:
        return self._digest("item", item_id)

    def of(self, subject: Subject) -> tuple[str, ...]:
        """Return the hashes that a request for this subject suppresses."""
        if subject.scope is Scope.USER:
            return (self.user(subject.user_id or ""),)
        if subject.scope is Scope.ITEM:
            return tuple(self.item(item_id) for item_id in subject.item_ids)
        return tuple(
            self.interaction(subject.user_id or "", item_id) for item_id in subject.item_ids
        )

    def never_trained(self, user_id: str, share: float) -> bool:
        """Return whether the user is a holdout user, drawn with probability `share` by the key."""
        return int(self._digest("cohort", user_id)[:13], 16) / 16**13 < share

    def opaque(self, purpose: str, value: str) -> str:
        """Return a keyed hash of another value, such as an idempotency key or a request body."""
        return self._digest(purpose, value)
