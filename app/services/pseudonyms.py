"""Keyed hashes of users, interactions and items, stored where plain ids must not be stored."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.domain.errors import InvalidInputError
from app.domain.id_rules import IdRule, MalformedTextError, normal_id, spellings
from app.domain.requests import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from app.domain.requests import Subject


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """HMAC-SHA256 with the installation's hash key, a secret that all its processes share.

    Stored ids have their normal form. Use cases call `user_id` with the spelling of the caller, and
    the `*_hashes` methods where a suppression from before the id rule may have another spelling.
    """

    key: bytes = field(repr=False)
    id_rule: IdRule = IdRule.EXACT
    #: The probability with which a new user becomes a holdout user.
    holdout_share: float = 0.0
    #: The key file, if this process created the key.
    new_key_file: Path | None = field(default=None, repr=False, compare=False)

    def user_id(self, text: str) -> str:
        """Return the normal form of a user id; raises InvalidInputError."""
        try:
            return normal_id(text, self.id_rule)
        except MalformedTextError as error:
            raise InvalidInputError(f"user_id {error}.", reason=f"user_id {error}") from error

    def _digest(self, *parts: str) -> str:
        # The lengths give ("a", "bc") and ("ab", "c") different messages.
        message = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.digest(self.key, message.encode(), "sha256").hex()

    def user(self, user_id: str) -> str:
        return self._digest("user", user_id)

    def interaction(self, user_id: str, item_id: str) -> str:
        return self._digest("interaction", user_id, item_id)

    def item(self, item_id: str) -> str:
        return self._digest("item", item_id)

    def user_hashes(self, text: str) -> tuple[str, ...]:
        """Return the hashes of a user id in its normal form, first, and in other spellings."""
        return tuple(map(self.user, spellings(text, self.id_rule)))

    def item_hashes(self, text: str) -> tuple[str, ...]:
        """Return the hashes of an item id in its normal form, first, and in other spellings."""
        return tuple(map(self.item, spellings(text)))

    def interaction_hashes(self, user_text: str, item_text: str) -> tuple[str, ...]:
        """Return the hashes of a pair in its normal form, first, and in other spellings."""
        return tuple(
            self.interaction(user_id, item_id)
            for user_id in spellings(user_text, self.id_rule)
            for item_id in spellings(item_text)
        )

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

    def drawn_as_holdout(self, user_ids: Iterable[str]) -> set[str]:
        """Return the users that are holdout users if they are new.

        A user who returns after a deletion has the same draw from the same share.
        """
        share = self.holdout_share
        return {user_id for user_id in user_ids if self.never_trained(user_id, share)}

    def fingerprint(self) -> str:
        """Return the fingerprint of the hash key, which databases and ledgers store."""
        return self.opaque("fingerprint", "hash-key")

    def ledger_key(self) -> bytes:
        """Return the key that authenticates the entries of the erasure ledger."""
        return hmac.new(self.key, b"lethe erasure ledger", hashlib.sha256).digest()

    def opaque(self, purpose: str, value: str) -> str:
        """Return a keyed hash of another value, such as an idempotency key or a request body."""
        return self._digest(purpose, value)
