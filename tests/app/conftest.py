"""Fixtures that record deletion requests and start jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.services.forget import ForgetCommand, request_forget
from app.services.jobs import claim, close_batch
from app.services.signatures import Signer
from app.settings import Settings
from app.storage.tables import Base
from tests.support.gateway_world import world

if TYPE_CHECKING:
    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(cancel_window=0.0, batch_seconds=0.0, retry_delay=0.0, request_failures=2)

Forget = Callable[..., "ForgetRequest"]


@pytest.fixture
def forget(catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> Forget:
    """Return a function that records a deletion request with the ids of the API."""

    def record(
        user_id: str | None = None, *item_ids: str, item_id: str | None = None
    ) -> ForgetRequest:
        with catalog() as uow:
            command = ForgetCommand.of(user_id, item_ids, item_id)
            return request_forget(uow, pseudonyms, SETTINGS, command)[0]

    return record


@pytest.fixture
def start_job(uow_factory: UnitOfWorkFactory) -> Callable[[], Lease]:
    """Return a function that closes a batch and claims its job."""

    def start() -> Lease:
        with uow_factory() as uow:
            close_batch(uow, SETTINGS)
        with uow_factory() as uow:
            claimed = claim(uow, "worker", SETTINGS)
        if claimed is None:
            raise RuntimeError("no job can be claimed")
        return claimed[1]

    return start


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def every_row(database: Database) -> Callable[[], str]:
    """Return a function that returns all values of all tables as one text."""

    def read() -> str:
        with database.read.connect() as connection:
            return "\n".join(
                str(row)
                for table in Base.metadata.tables.values()
                for row in connection.execute(table.select())
            )

    return read


__all__ = ["world"]
