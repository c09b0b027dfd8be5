"""Entries of the ledger are created once, durably and privately."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from app.domain.errors import (
    LedgerAheadError,
    LedgerDamagedError,
    LedgerUnavailableError,
)
from app.domain.ledger import LedgerHead, LedgerRecord
from app.storage import ledger_objects
from app.storage.ledger import Ledger, open_ledger
from app.storage.ledger_objects import LocalObjects
from tests.support.ledgers import RECORD, append

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.services.pseudonyms import Pseudonyms


@pytest.fixture(params=["path", "file", "memory", "dir"])
def any_ledger(
    request: pytest.FixtureRequest, root: Path, pseudonyms: Pseudonyms
) -> Iterator[Ledger]:
    urls = {
        "path": str(root),
        "file": f"file://{root}",
        "memory": f"memory://{root.parent.name}/ledger",
        "dir": f"dir::file://{root}",
    }
    yield open_ledger(urls[request.param], pseudonyms)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_entries_are_read_as_they_were_written(any_ledger: Ledger) -> None:
    head = append(any_ledger, 5)
    entries = list(any_ledger.entries(LedgerHead()))
    assert [entry.head.number for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[-1].head == head
    assert entries[2].records == (RECORD,)
    assert entries[2].data_version == 2
    assert any_ledger.last_number() == 5
    assert any_ledger.entry(6) is None
    assert any_ledger.is_ahead(entries[3].head)
    assert not any_ledger.is_ahead(head)


def test_entry_is_created_once(any_ledger: Ledger) -> None:
    head = append(any_ledger, 1)
    append(any_ledger, 1, head)
    with pytest.raises(LedgerAheadError):
        any_ledger.append(head, [RECORD, RECORD], 9)
    second = any_ledger.entry(2)
    assert second is not None
    assert second.records == (RECORD,)


def test_checkpoint_is_created_once(any_ledger: Ledger) -> None:
    assert any_ledger.checkpoint_numbers() == ([], [])
    any_ledger.create_checkpoint(7, b"first")
    with pytest.raises(FileExistsError):
        any_ledger.create_checkpoint(7, b"second")
    assert any_ledger.checkpoints([6, 7]) == {7: b"first"}
    assert any_ledger.checkpoint_numbers() == ([7], [])


def test_directories_have_a_thousand_entries(
    ledger: Ledger, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_objects, "sync", lambda _path: None)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    append(ledger, 1003)
    assert [p.name for p in sorted((directory / "entries").iterdir())] == ["000000000", "000000001"]
    assert ledger.buckets() == ["000000000", "000000001"]
    assert ledger.entry_numbers("000000001") == ([1000, 1001, 1002, 1003], [])
    assert ledger.last_number() == 1003
    assert sum(1 for _ in ledger.entries(LedgerHead())) == 1003


def test_last_number_lists_two_directories_of_a_million_entries(pseudonyms: Pseudonyms) -> None:
    listed = []

    class Million(LocalObjects):
        def __init__(self) -> None:
            pass

        def names(self, directory: str) -> list[str]:
            listed.append(directory)
            if directory == "entries":
                return [f"{bucket:09d}" for bucket in range(1001)]
            first = int(directory.rsplit("/", 1)[-1]) * 1000
            return [f"{n:012d}.json" for n in range(first, min(first + 1000, 1_000_001))]

    assert Ledger(Million(), pseudonyms.ledger_key()).last_number() == 1_000_000
    assert listed == ["entries", "entries/000001000"]


@pytest.mark.parametrize("change", ["bit", "truncate", "empty", "mac", "whitespace", "copy"])
def test_altered_entry_is_refused(ledger: Ledger, directory: Path, change: str) -> None:
    append(ledger, 2)
    path = directory / "entries" / "000000000" / "000000000002.json"
    content = path.read_bytes()
    document = json.loads(content)
    altered = {
        "bit": content.replace(b'"data_version":1', b'"data_version":2'),
        "truncate": content[:-5],
        "empty": b"",
        "mac": json.dumps({"body": document["body"], "mac": "0" * 64}).encode(),
        "whitespace": content + b"\n",
        "copy": path.with_name("000000000001.json").read_bytes(),
    }
    path.write_bytes(altered[change])
    with pytest.raises(LedgerDamagedError, match="entry 2"):
        ledger.entry(2)


def test_entry_of_a_newer_version_is_reported_as_such(ledger: Ledger) -> None:
    class Unknown(str):
        __slots__ = ()
        value = "unknown"

    record = LedgerRecord(event=Unknown(), at=RECORD.at)  # type: ignore[arg-type] # on purpose
    ledger.append(LedgerHead(), [record], 1)
    with pytest.raises(LedgerDamagedError, match="newer version of Lethe"):
        ledger.entry(1)


def test_replaced_entry_breaks_the_chain(
    ledger: Ledger, directory: Path, root: Path, pseudonyms: Pseudonyms
) -> None:
    append(ledger, 3)
    other = open_ledger(f"{root}-2", pseudonyms)
    other.append(LedgerHead(), [RECORD, RECORD], 1)
    name = "entries/000000000/000000000001.json"
    content = (Path(f"{root}-2") / directory.name / name).read_bytes()
    (directory / name).write_bytes(content)
    with pytest.raises(LedgerDamagedError, match="entry 2 does not continue entry 1"):
        list(ledger.entries(LedgerHead()))


def test_other_hash_key_has_another_directory(root: Path, ledger: Ledger) -> None:
    from app.services.pseudonyms import Pseudonyms  # noqa: PLC0415 # the fixture has this name

    append(ledger, 1)
    other = open_ledger(str(root), Pseudonyms(b"another key, with thirty-two bytes"))
    assert other.last_number() == 0
    assert len(list(root.iterdir())) == 1


def test_files_are_for_their_owner_only(
    root: Path, directory: Path, pseudonyms: Pseudonyms
) -> None:
    before = os.umask(0)
    try:
        ledger = open_ledger(str(root / "new"), pseudonyms)
        append(ledger, 1)
        ledger.create_checkpoint(1, b"{}")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (root / "new").rglob("*")}
    assert modes == {0o700, 0o600}
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o700
    (root / "new" / directory.name).chmod(0o755)
    open_ledger(str(root / "new"), pseudonyms)
    assert stat.S_IMODE((root / "new" / directory.name).stat().st_mode) == 0o700


def test_entry_and_new_directories_are_synced(
    ledger: Ledger, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(ledger_objects, "sync", synced.append)
    append(ledger, 1)
    bucket = directory / "entries" / "000000000"
    assert synced == [directory.parent, directory, directory / "entries", bucket]
    assert os.listdir(bucket) == ["000000000001.json"]  # noqa: PTH208 # hidden files as well


def test_leftovers_of_killed_writers_are_not_counted_and_removed(
    ledger: Ledger, directory: Path
) -> None:
    append(ledger, 1)
    bucket = directory / "entries" / "000000000"
    old, new = bucket / ".000000000002.json.aa", bucket / ".000000000002.json.bb"
    for path in (old, new):
        path.write_bytes(b'{"body":')
    os.utime(old, (0, 0))
    assert ledger.last_number() == 1
    assert ledger.entry_numbers("000000000") == ([1], [])
    assert ledger.remove_leftovers() == 1
    assert new.exists()
    assert not old.exists()


def test_foreign_files_do_not_stop_the_ledger(ledger: Ledger, directory: Path) -> None:
    append(ledger, 1)
    bucket = directory / "entries" / "000000000"
    for path in (
        directory / "notes.txt",
        directory / "entries" / "copy",
        bucket / "000000000001 (2).json",
        bucket / "000000001234.json",  # Belongs to another directory.
    ):
        path.write_bytes(b"")
    assert ledger.last_number() == 1
    assert ledger.foreign_names() == ["notes.txt", "entries/copy"]
    numbers, foreign = ledger.entry_numbers("000000000")
    assert numbers == [1]
    assert foreign == [
        "entries/000000000/000000000001 (2).json",
        "entries/000000000/000000001234.json",
    ]


def test_vanished_directory_starts_no_second_ledger(ledger: Ledger, root: Path) -> None:
    head = append(ledger, 2)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(LedgerUnavailableError):
        ledger.append(head, [RECORD], 3)
    assert not root.exists()
    root.with_name("elsewhere").rename(root)
    assert ledger.append(head, [RECORD], 3).number == 3
