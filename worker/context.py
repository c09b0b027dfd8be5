"""What every part of the worker is given, built once per process."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import InvalidInputError
from app.services.secrets import check_hash_key, load_pseudonyms, load_signer
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.maintenance import erase_remains
from app.storage.unit_of_work import UnitOfWorkFactory

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.services.certificates import Signer
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.engine import Database
    from worker.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The settings, the database, the keys, the artefacts and the machine learning."""

    settings: Settings
    database: Database
    uow_factory: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    signer: Signer
    artifacts: ArtifactStore
    learner: Learner
    #: Owner of leases and id of the worker's row: unique to this process, naming its machine.
    worker_id: str

    def scrub_database(self) -> bool:
        """Erase what deleted rows left behind; False where readers kept it from happening."""
        return erase_remains(self.database)

    def close(self) -> None:
        self.database.dispose()


def build_context(
    settings: Settings, make_learner: Callable[[Settings], Learner] | None = None
) -> WorkerContext:
    """Connect everything; raises KeyMismatchError where the hash key is not the database's."""
    database = make_database(settings.sqlalchemy_url)
    uow_factory = UnitOfWorkFactory(database)
    pseudonyms = load_pseudonyms(settings)
    with uow_factory() as uow:
        check_hash_key(uow, pseudonyms)
    return WorkerContext(
        settings=settings,
        database=database,
        uow_factory=uow_factory,
        pseudonyms=pseudonyms,
        signer=load_signer(settings),
        artifacts=open_artifacts(settings),
        learner=(make_learner or _model_learner)(settings),
        worker_id=f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}",
    )


def open_artifacts(settings: Settings) -> ArtifactStore:
    """Open the artefacts; staging and copies of remote ones lie under LETHE_HOME."""
    return ArtifactStore(settings.artifacts_root, settings.home / "cache")


def _model_learner(settings: Settings) -> Learner:
    # Imported here because it brings torch along, which only a process that trains should load.
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
