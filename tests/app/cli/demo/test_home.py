"""The demo's data directory: what is emptied, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.cli.demo.home import DemoRunningError, ForeignDirectoryError, fresh_home, ledger_path
from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_existing_demo_directory_is_emptied_except_for_its_marker(tmp_path: Path) -> None:
    with fresh_home(tmp_path / "demo") as home:
        (home / "old").mkdir()
        (home / "old" / "file").touch()
    with fresh_home(tmp_path / "demo") as home:
        assert [entry.name for entry in home.iterdir()] == [".lethe-demo"]


def test_ledger_beside_the_directory_is_emptied_too(tmp_path: Path) -> None:
    """Otherwise the next run would find the entries of a database that is gone."""
    with fresh_home(tmp_path / "demo") as home:
        ledger = ledger_path(home)
        assert str(ledger) == Settings(home=home).ledger_root
        (ledger / "entry").touch()
    with fresh_home(tmp_path / "demo"):
        assert [entry.name for entry in ledger.iterdir()] == [".lethe-demo"]


def test_foreign_directory_in_the_place_of_the_ledger_stays(tmp_path: Path) -> None:
    (tmp_path / "demo-ledger").mkdir()
    (tmp_path / "demo-ledger" / "precious").touch()
    with pytest.raises(ForeignDirectoryError), fresh_home(tmp_path / "demo"):
        pytest.fail("a foreign directory was emptied")
    assert (tmp_path / "demo-ledger" / "precious").exists()
    assert not (tmp_path / "demo").exists()


def test_symlink_inside_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    with fresh_home(tmp_path / "demo") as home:
        (home / "link").symlink_to(tmp_path / "elsewhere")
    with fresh_home(tmp_path / "demo") as home:
        assert not (home / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").exists()


def test_second_demo_in_the_directory_is_refused(tmp_path: Path) -> None:
    with fresh_home(tmp_path / "demo") as home:
        (home / "in-use").touch()
        with pytest.raises(DemoRunningError), fresh_home(tmp_path / "demo"):
            pytest.fail("two demos at once")
        assert (home / "in-use").exists()


def test_symlink_to_the_directory_is_refused(tmp_path: Path) -> None:
    with fresh_home(tmp_path / "demo"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    with pytest.raises(ForeignDirectoryError), fresh_home(tmp_path / "link"):
        pytest.fail("a link was followed")


def test_ledger_beside_the_directory_is_emptied_as_well(tmp_path: Path) -> None:
    with fresh_home(tmp_path / "demo"):
        (tmp_path / "demo-ledger" / "entries").mkdir()
    with fresh_home(tmp_path / "demo"):
        assert not (tmp_path / "demo-ledger" / "entries").exists()


def test_ledger_of_another_installation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo-ledger" / "entries").mkdir(parents=True)
    with pytest.raises(ForeignDirectoryError), fresh_home(tmp_path / "demo"):
        pytest.fail("entered")
    assert (tmp_path / "demo-ledger" / "entries").exists()
