"""Open an installation without changing it: no migration, no new key, no new directory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.cli.failures import BadInputError, CommandError
from app.domain.errors import IdRuleMismatchError, KeyMismatchError
from app.domain.places import is_plain_path
from app.domain.restore_check import StoredArtifacts
from app.services.secrets import HASH_KEY_FILE, load_pseudonyms
from app.services.signatures import TrustedKey, load_public_key
from app.services.signing_keys import key_of_this_machine
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import Ledger, open_ledger
from app.storage.migrate import is_current
from app.storage.session_limits import COMMAND
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings

_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredInstallation:
    """The parts of an installation that are compared."""

    settings: Settings
    uow: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    ledger: Ledger

    def artifacts(self) -> StoredArtifacts:
        """Return the files in the artifact store."""
        root = self.settings.artifacts_root
        if is_plain_path(root) and not Path(root).is_dir():
            return StoredArtifacts(root=root)
        store = ArtifactStore(root, self.settings.home / "cache")
        published = tuple(store.published())
        return StoredArtifacts(
            root=root,
            published=published,
            adapters=tuple(store.adapters()),
            staged_jobs=tuple(store.staged_jobs()),
            complete=frozenset(filter(store.exists, published)),
        )

    def trusted_keys(self) -> list[TrustedKey]:
        """Return the installation's own keys.

        A restored database may have registered a key later than the certificates were signed, so
        the time from which a key is valid is not checked.
        """
        with self.uow(write=False) as uow:
            keys = {
                key.key_id: TrustedKey(public_key=load_public_key(key.public_pem.encode()))
                for key in uow.signing_keys.all()
            }
        own = key_of_this_machine(self.settings)
        if own is not None:
            keys.setdefault(own.key_id, own)
        return list(keys.values())


@contextmanager
def open_unchanged(settings: Settings) -> Iterator[RestoredInstallation]:
    """Open the installation; raises for a missing or another hash key, and for an old schema."""
    key_file = settings.keys_directory / HASH_KEY_FILE
    if settings.hash_key is None and not key_file.exists():
        raise BadInputError(
            f"There is no hash key: {key_file} is missing, and LETHE_HASH_KEY is not set. Restore"
            " the key first: without it no deleted person is recognized."
        )
    url = settings.sqlalchemy_url
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        raise BadInputError(
            f"There is no database at {url.removeprefix(_SQLITE)}. Restore it, or check LETHE_HOME"
            " and LETHE_DATABASE_URL."
        )
    try:
        database = make_database(url, COMMAND)
    except ValueError as error:
        raise BadInputError(f"LETHE_DATABASE_URL cannot be used: {error}") from error
    try:
        if not is_current(database):
            raise CommandError(
                "The database has the tables of another version of Lethe. `lethe up` upgrades it"
                " and repeats what the ledger has; check again after that."
            )
        pseudonyms = load_pseudonyms(settings)
        ledger = open_ledger(settings.ledger_root, pseudonyms)
        factory = UnitOfWorkFactory(database, ledger)
        _check_identity(factory, pseudonyms)
        yield RestoredInstallation(
            settings=settings,
            uow=factory,
            pseudonyms=pseudonyms,
            ledger=ledger,
        )
    finally:
        database.dispose()


def _check_identity(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    """Raise KeyMismatchError or IdRuleMismatchError, without fixing anything."""
    with factory(write=False) as uow:
        fingerprint, rule = uow.state.stored_fingerprint(), uow.identity.rule()
    if fingerprint not in {None, pseudonyms.fingerprint()}:
        raise KeyMismatchError
    if rule not in {None, pseudonyms.id_rule.value}:
        raise IdRuleMismatchError(stored=rule, configured=pseudonyms.id_rule.value)
