"""The demo's settings: which of another installation's settings the demo uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from app.cli.demo.command import INSTALLATION_VARIABLES, demo_settings
from app.cli.launch import listening
from app.services.pseudonyms import Pseudonyms
from app.services.secrets import load_pseudonyms
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a key for tests, thirty-two bytes"
USERS = [str(number) for number in range(1, 611)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the environment, which the demo changes for its child processes."""
    with monkeypatch.context() as context:
        context.setattr(os, "environ", os.environ.copy())
        yield


def demo_pseudonyms(home: Path, key: str | None) -> Pseudonyms:
    """Return the keyed hashes of a demo that is started with this LETHE_HASH_KEY."""
    os.environ.pop("LETHE_HASH_KEY", None)
    if key is not None:
        os.environ["LETHE_HASH_KEY"] = key
    with listening("127.0.0.1", 0) as server:
        settings = demo_settings(home, server)
    pseudonyms = load_pseudonyms(settings)
    # Child processes read the environment.
    assert load_pseudonyms(Settings()) == pseudonyms
    return pseudonyms


def test_demos_with_the_same_hash_key_have_the_same_holdout_users(tmp_path: Path) -> None:
    """Holdout users train no model, so that other holdout users give other audits."""
    drawn = [
        demo_pseudonyms(tmp_path / name, key).drawn_as_holdout(USERS)
        for name, key in (("first", KEY), ("second", KEY), ("third", f"{KEY}, but not the same"))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_demo_without_a_hash_key_creates_one_in_its_directory(tmp_path: Path) -> None:
    first, second = (demo_pseudonyms(tmp_path / name, None) for name in ("first", "second"))
    assert first.key != second.key


def test_demo_shows_no_keyed_hash_of_the_other_installation(tmp_path: Path) -> None:
    """The demo's database has ids beside their hashes, and other data may have the same ids."""
    assert demo_pseudonyms(tmp_path, KEY).user("1") != Pseudonyms(KEY.encode()).user("1")


def test_demo_uses_no_other_setting_of_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in INSTALLATION_VARIABLES:
        monkeypatch.setenv(name, "of another installation")
    with listening("127.0.0.1", 0) as server:
        settings = demo_settings(tmp_path, server)
    assert settings.home == tmp_path
    assert settings.api_keys == ()
    assert settings.ledger_root == f"{tmp_path}-ledger"
