"""The installation on this machine: its database, migrated to the latest schema, and its keys."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cli.failures import BadInputError
from app.private_files import protect_home
from app.services.restore import open_data, reconciler
from app.services.secrets import load_pseudonyms
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.migrate import migrate
from app.storage.session_limits import COMMAND
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The arguments of the services that commands call in place of the gateway."""

    settings: Settings
    uow: UnitOfWorkFactory
    pseudonyms: Pseudonyms


@contextmanager
def open_installation(settings: Settings) -> Iterator[Installation]:
    """Open and migrate the database; raises for another hash key or id rule."""
    protect_home(settings)
    try:
        database = make_database(settings.sqlalchemy_url, COMMAND)
    except ValueError as error:
        raise BadInputError(f"LETHE_DATABASE_URL cannot be used: {error}") from error
    try:
        migrate(database)
        pseudonyms = load_pseudonyms(settings)
        ledger = open_ledger(settings.ledger_root, pseudonyms)
        factory = UnitOfWorkFactory(database, ledger, reconciler(pseudonyms, settings))
        with factory() as uow:
            open_data(uow, ledger, pseudonyms, settings)
        yield Installation(settings=settings, uow=factory, pseudonyms=pseudonyms)
    finally:
        database.dispose()
