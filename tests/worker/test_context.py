"""Check that the worker and the gateway configure `models` from their settings at start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from app.domain.errors import InvalidInputError, SigningKeyRetiredError
from app.main import create_app
from app.services.secrets import SIGNING_KEY_FILE
from app.services.signing_keys import rotate
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate
from app.storage.unit_of_work import UnitOfWorkFactory
from models.backbones import packaged
from worker.context import build_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    before = packaged.cache_directory()
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir()
    database = make_database(settings.sqlalchemy_url)
    migrate(database)
    database.dispose()
    yield settings
    packaged.set_cache_directory(before)


def test_worker_keeps_backbones_in_home(settings: Settings) -> None:
    build_context(settings).close()

    assert packaged.cache_directory() == settings.home / "backbones"


def test_gateway_keeps_backbones_in_home(settings: Settings) -> None:
    create_app(settings)

    assert packaged.cache_directory() == settings.home / "backbones"


@pytest.mark.parametrize("start", [build_context, create_app])
def test_unknown_device_raises_at_start(
    settings: Settings, start: Callable[[Settings], object]
) -> None:
    unknown_device = settings.model_copy(update={"device": "cuda:7"})
    with pytest.raises(InvalidInputError, match="LETHE_DEVICE: 'cuda:7' is not on this machine"):
        start(unknown_device)


def test_production_worker_needs_a_signing_key_and_a_gateway_needs_none(
    settings: Settings,
) -> None:
    production = settings.model_copy(
        update={"environment": "production", "hash_key": SecretStr("k" * 32)}
    )
    with pytest.raises(InvalidInputError, match="LETHE_SIGNING_KEY"):
        build_context(production)
    create_app(production)
    assert not settings.keys_directory.exists()


def test_worker_registers_its_key_and_reads_a_rotated_key(settings: Settings) -> None:
    context = build_context(settings)
    with context.uow_factory() as uow:
        (first,) = uow.signing_keys.all()
        assert first.key_id == context.signer.key_id
        second = rotate(uow, settings)
    assert context.signer.key_id == second.key_id != first.key_id
    context.close()


def test_worker_with_a_retired_key_does_not_start(settings: Settings) -> None:
    build_context(settings).close()
    old = SecretStr((settings.keys_directory / SIGNING_KEY_FILE).read_text())
    database = make_database(settings.sqlalchemy_url)
    with UnitOfWorkFactory(database)() as uow:
        rotate(uow, settings)
    database.dispose()
    with pytest.raises(SigningKeyRetiredError):
        build_context(settings.model_copy(update={"signing_key": old}))


def test_default_directory_is_in_default_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LETHE_HOME", raising=False)
    assert packaged._Cache().directory == Settings().backbones_directory
