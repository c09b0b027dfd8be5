"""The installation's signing keys: register, rotate and publish their public parts.

The rule: the key that was registered last is current. A retired key never becomes current again,
so two workers with different keys cannot retire each other's key in turn. Only the current key
signs: a worker with a retired key stops signing and does not start again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.certificates import SigningKey
from app.domain.errors import InvalidCertificateError, InvalidInputError, SigningKeyRetiredError
from app.services.secrets import SIGNING_KEY_FILE, load_signer, replace_signing_key
from app.services.signatures import ALGORITHM, TrustedKey, instant, load_public_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.services.signatures import Signer
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


def register(uow: UnitOfWork, signer: Signer) -> SigningKey:
    """Register a new key as the current key, and retire its predecessor.

    Return the registered key; a second call changes nothing. Raises SigningKeyRetiredError for a
    retired key.
    """
    uow.state.lock()
    known = uow.signing_keys.get(signer.key_id)
    if known is not None:
        if known.retired_at is not None:
            raise SigningKeyRetiredError(key_id=known.key_id, retired_at=known.retired_at)
        return known
    now = uow.state.now()
    key = SigningKey(
        key_id=signer.key_id, public_pem=signer.public_pem().decode("ascii"), valid_from=now
    )
    uow.signing_keys.retire_current(now)
    uow.signing_keys.add(key)
    return key


def rotate(uow: UnitOfWork, settings: Settings) -> SigningKey:
    """Replace the signing key in its file by a new key, and return the new key.

    The previous public key stays published; its private part is destroyed. Workers read the file
    for each certificate, so none has to restart. Raises InvalidInputError where the workers do not
    use the file, and SigningKeyRetiredError if the key in the file is retired.
    """
    has_file = (settings.keys_directory / SIGNING_KEY_FILE).exists()
    uow.state.lock()
    is_elsewhere = not has_file and bool(uow.signing_keys.all())
    if settings.signing_key is not None or settings.environment == "production" or is_elsewhere:
        raise InvalidInputError(
            "The workers do not read the signing key from a file of this LETHE_HOME. Set their"
            " LETHE_SIGNING_KEY to a new key (openssl genpkey -algorithm ed25519) and restart them."
        )
    register(uow, load_signer(settings))  # The present key, if no worker has registered it yet.
    # The file comes before the commit: if this process dies in between, the next certificate
    # registers the new key. In the other order, the only current key could be lost.
    return register(uow, replace_signing_key(settings))


def key_of_this_machine(settings: Settings) -> TrustedKey | None:
    """Return the signing key of the settings or of the key file, and create none."""
    has_file = (settings.keys_directory / SIGNING_KEY_FILE).exists()
    if settings.signing_key is None and not has_file:
        return None
    return TrustedKey(public_key=load_signer(settings).key.public_key())


def keys_document(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """Return the JSON object that `GET /.well-known/lethe-keys` publishes."""
    return {
        "keys": [
            {
                "key_id": key.key_id,
                "algorithm": ALGORITHM,
                "public_key": key.public_pem,
                "valid_from": key.valid_from.isoformat(),
                "retired_at": None if key.retired_at is None else key.retired_at.isoformat(),
            }
            for key in keys
        ]
    }


def trusted_keys(document: Any) -> list[TrustedKey]:
    """Return the keys of a saved `lethe-keys` document; raises InvalidInputError."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InvalidInputError("The key file has no keys. Save /.well-known/lethe-keys again.")
    try:
        return [_trusted_key(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError, InvalidCertificateError) as error:
        raise InvalidInputError(
            "An entry of the key file is malformed. Save /.well-known/lethe-keys again."
        ) from error


def trusted_key(key: SigningKey) -> TrustedKey:
    """Return a registered key as a key that its own installation trusts."""
    return TrustedKey(
        public_key=load_public_key(key.public_pem.encode()),
        valid_from=key.valid_from,
        retired_at=key.retired_at,
    )


def _trusted_key(entry: dict[str, Any]) -> TrustedKey:
    retired_at = entry["retired_at"]
    key = TrustedKey(
        public_key=load_public_key(entry["public_key"].encode()),
        valid_from=instant(entry["valid_from"]),
        retired_at=None if retired_at is None else instant(retired_at),
    )
    if entry["algorithm"] != ALGORITHM or entry["key_id"] != key.key_id:
        raise ValueError
    return key
