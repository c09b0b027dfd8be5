"""Check that the worker and the gateway keep packaged backbones under LETHE_HOME."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.errors import InvalidInputError
from app.main import create_app
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.migrate import migrate
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


def test_default_directory_is_in_default_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LETHE_HOME", raising=False)
    assert packaged._Cache().directory == Settings().backbones_directory
