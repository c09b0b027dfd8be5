"""Load the two secrets of an installation: the hash key and the signing key.

The secrets come from the settings. If unset, they are created once in the keys directory, which is
never inside the artifact store.
"""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.errors import InvalidInputError, KeyMismatchError
from app.private_files import create_once, sync, write_beside
from app.services.pseudonyms import Pseudonyms
from app.services.signatures import Signer

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

HASH_KEY_FILE: Final = "hash.key"
SIGNING_KEY_FILE: Final = "signing.pem"
_MIN_KEY_LENGTH: Final = 16


def load_pseudonyms(settings: Settings) -> Pseudonyms:
    """Return the keyed hashes of this installation; create the key if there is none."""
    new_key_file = None
    name, remedy = "The hash key", "Set LETHE_HASH_KEY to a longer secret."
    if settings.hash_key is not None:
        key = settings.hash_key.get_secret_value().encode()
    else:
        path = settings.keys_directory / HASH_KEY_FILE
        created = base64.urlsafe_b64encode(secrets.token_bytes(32))
        key = create_once(path, lambda: created)
        new_key_file = path if key == created else None
        name = f"The key file {path}"
        remedy = (
            "Restore the file from a backup, because no other key recognizes the forgotten users. "
            "Remove the file only if the installation has no data."
        )
    if len(key) < _MIN_KEY_LENGTH:
        raise InvalidInputError(
            f"{name} has {len(key)} bytes, but needs at least {_MIN_KEY_LENGTH}. {remedy}"
        )
    return Pseudonyms(key, settings.id_rule, settings.holdout_share, new_key_file)


def load_signer(settings: Settings) -> Signer:
    """Return the signer of certificates; create its key if there is none."""
    if settings.signing_key is not None:
        pem = settings.signing_key.get_secret_value().encode()
    else:
        pem = create_once(settings.keys_directory / SIGNING_KEY_FILE, _new_signing_key)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise InvalidInputError(
            "LETHE_SIGNING_KEY or the key file is not an unencrypted private key in PEM format."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(
            "The signing key is not an Ed25519 key. Set LETHE_SIGNING_KEY to one."
        )
    return Signer(key)


def replace_signing_key(settings: Settings) -> Signer:
    """Replace the key file by a new signing key at once, and return the new key's signer.

    The previous file is unlinked. A reader sees either the previous key or the new one.
    """
    path = settings.keys_directory / SIGNING_KEY_FILE
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = write_beside(path, _new_signing_key())
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    sync(path.parent)
    return load_signer(settings)


def check_hash_key(uow: UnitOfWork, pseudonyms: Pseudonyms) -> None:
    """Raise KeyMismatchError if the hash key is not the first key used with this database.

    With another key, no suppression or tombstone in the database would match any id. A key that
    this process created in place of a lost one is removed again.
    """
    fingerprint = pseudonyms.fingerprint()
    if uow.state.key_fingerprint(fingerprint) != fingerprint:
        if pseudonyms.new_key_file is not None:
            pseudonyms.new_key_file.unlink(missing_ok=True)
        raise KeyMismatchError


def _new_signing_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
