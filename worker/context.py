"""Build the dependencies of a worker process once: database, keys, artifact store and learner."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import InvalidInputError
from app.services import signing_keys
from app.services.restore import open_data, reconciler
from app.services.secrets import load_pseudonyms, load_signer
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.maintenance import erase_remains
from app.storage.session_limits import WORKER
from app.storage.unit_of_work import UnitOfWorkFactory
from models.checkpoints.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.services.pseudonyms import Pseudonyms
    from app.services.signatures import Signer
    from app.settings import Settings
    from app.storage.engine import Database
    from worker.learner import Learner

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The dependencies of a worker process."""

    settings: Settings
    database: Database
    uow_factory: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    artifacts: ArtifactStore
    learner: Learner
    #: The owner of leases and id of the worker's row: host name, process id and a random suffix.
    worker_id: str

    @property
    def signer(self) -> Signer:
        """The signer of certificates. Its key file is read each time: `lethe keys rotate`."""
        return load_signer(self.settings)

    def erase_remains(self, *, transaction_id: int | None, wait_seconds: float) -> str | None:
        """Erase the remains of deleted rows. Return None, or the reason why some may be left."""
        return erase_remains(
            self.database, transaction_id=transaction_id, wait_seconds=wait_seconds
        )

    def close(self) -> None:
        self.database.dispose()


def build_context(
    settings: Settings, make_learner: Callable[[Settings], Learner] | None = None
) -> WorkerContext:
    """Connect to the database and open the artifact store.

    Raises KeyMismatchError or IdRuleMismatchError if LETHE_HASH_KEY or LETHE_ID_RULE is not the
    value that the database was filled with, and SigningKeyRetiredError if the signing key is
    retired.
    """
    if settings.environment == "production" and settings.signing_key is None:
        raise InvalidInputError(
            "LETHE_ENVIRONMENT=production needs LETHE_SIGNING_KEY to be set for a worker. Create a"
            " key with: openssl genpkey -algorithm ed25519"
        )
    database = make_database(settings.sqlalchemy_url, WORKER)
    pseudonyms = load_pseudonyms(settings)
    ledger = open_ledger(settings.ledger_root, pseudonyms)
    uow_factory = UnitOfWorkFactory(database, ledger, reconciler(pseudonyms, settings))
    with uow_factory() as uow:
        open_data(uow, ledger, pseudonyms, settings)
        signing_keys.register(uow, load_signer(settings))
    artifacts = open_artifacts(settings)
    continue_data_version(uow_factory, artifacts)
    return WorkerContext(
        settings=settings,
        database=database,
        uow_factory=uow_factory,
        pseudonyms=pseudonyms,
        artifacts=artifacts,
        learner=(make_learner or _model_learner)(settings),
        worker_id=f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}",
    )


def open_artifacts(settings: Settings) -> ArtifactStore:
    """Open the artifact store; LETHE_HOME holds staging and the copies of remote artifacts."""
    return ArtifactStore(settings.artifacts_root, settings.home / "cache")


def continue_data_version(uow_factory: UnitOfWorkFactory, artifacts: ArtifactStore) -> None:
    """Raise the data version above the data version of every published release.

    A release is newer than the data only if the database was restored from a backup. Then new rows
    must not get a version that the release already counts as known. If the database knows the
    release, the present rows may have had other values when the release was trained.
    """
    versions = {path: _recorded_version(artifacts, path) for path in artifacts.published()}
    newest = max(versions.values(), default=-1)
    with uow_factory(write=False) as uow:
        present = uow.state.data_version()
        known = {release.path for release in uow.releases.unshredded()}
        if present >= newest:
            return
    with uow_factory() as uow:
        uow.state.allow_long()
        uow.state.lock()
        version = uow.state.raise_above(newest)
        if version is None:
            return
        if any(versions[path] > present for path in known & versions.keys()):
            uow.people.mark_all_changed(version)
        log.warning("database_older_than_releases", data_version=version)


def _recorded_version(artifacts: ArtifactStore, path: str) -> int:
    """Return the data version in the manifest of a published release; -1 if there is none."""
    try:
        content = json.loads(artifacts.read_text(path, MANIFEST))
        return int(content["extra"].get("data_version", -1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("manifest_not_read", artifact=path, error=type(error).__name__)
        return -1


def _model_learner(settings: Settings) -> Learner:
    # These modules load torch, which only processes that train need.
    import torch  # noqa: PLC0415

    from models.backbones.packaged import set_cache_directory  # noqa: PLC0415
    from models.runtime.devices import (  # noqa: PLC0415
        Machine,
        UnknownDeviceError,
        choose_device,
        use,
    )
    from worker.trainer import ModelLearner  # noqa: PLC0415

    torch.set_num_threads(settings.torch_threads)
    set_cache_directory(settings.backbones_directory)
    try:
        machine = Machine(
            device=choose_device(settings.device),
            processes=settings.train_processes,
            checkpointing=settings.gradient_checkpointing,
        )
    except UnknownDeviceError as error:
        raise InvalidInputError(str(error)) from error
    use(machine)
    return ModelLearner(settings)
