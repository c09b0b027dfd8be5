"""The installation's signing keys: register, rotate and publish their public parts.

The rule: the key that was registered last is current. A retired key never becomes current again,
so two workers with different keys cannot retire each other's key in turn. Only the current key
signs; a worker with a retired key stops signing and does not start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.certificates import SigningKey
from app.domain.errors import SigningKeyRetiredError

if TYPE_CHECKING:
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWork


def register(uow: UnitOfWork, signer: Signer) -> None:
    """Make a key that is not registered yet the current one, and retire its predecessor.

    Raises SigningKeyRetiredError for a retired key. A second call changes nothing.
    """
    uow.state.lock()
    known = uow.signing_keys.get(signer.key_id)
    if known is not None and known.retired_at is not None:
        raise SigningKeyRetiredError(key_id=known.key_id, retired_at=known.retired_at)
    if known is not None:
        return
    now = uow.state.now()
    uow.signing_keys.retire_current(now)
    uow.signing_keys.add(
        SigningKey(
            key_id=signer.key_id, public_pem=signer.public_pem().decode("ascii"), valid_from=now
        )
    )
