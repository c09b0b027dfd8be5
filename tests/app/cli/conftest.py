"""Fixtures of the command-line tests: a data directory per test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.settings import get_settings
from tests.support.restorable import Restorable, filled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    get_settings.cache_clear()
    yield tmp_path / "home"
    get_settings.cache_clear()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres])])
def installation(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Restorable:
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
        monkeypatch.setenv("LETHE_DATABASE_URL", request.getfixturevalue("postgres_url"))
    return filled(Restorable(home, tmp_path / "saved"), monkeypatch)


@pytest.fixture
def on_sqlite(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restorable:
    return filled(Restorable(home, tmp_path / "saved"), monkeypatch)
