"""Every process that builds models keeps packaged ones under LETHE_HOME."""

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
    made = Settings(home=tmp_path / "home")
    made.home.mkdir()
    database = make_database(made.sqlalchemy_url)
    migrate(database)
    database.dispose()
    yield made
    packaged.set_cache_directory(before)


def test_a_worker_keeps_them_there(settings: Settings) -> None:
    build_context(settings).close()

    assert packaged.cache_directory() == settings.home / "backbones"


def test_a_gateway_keeps_them_there(settings: Settings) -> None:
    create_app(settings)

    assert packaged.cache_directory() == settings.home / "backbones"


@pytest.mark.parametrize("starts", [build_context, create_app])
def test_a_device_that_is_not_there_is_told_at_the_start(
    settings: Settings, starts: Callable[[Settings], object]
) -> None:
    elsewhere = settings.model_copy(update={"device": "cuda:7"})
    with pytest.raises(InvalidInputError, match="LETHE_DEVICE: 'cuda:7' is not on this machine"):
        starts(elsewhere)


def test_unless_told_they_are_kept_where_the_default_home_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LETHE_HOME", raising=False)
    assert packaged._Cache().directory == Settings().backbones_directory
