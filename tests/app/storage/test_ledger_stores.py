"""Stores of the ledger that are broken, slow or misconfigured answer in time."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from app.domain.errors import (
    InvalidInputError,
    LedgerAheadError,
    LedgerUnavailableError,
)
from app.domain.ledger import LedgerHead
from app.storage.ledger import Ledger, open_ledger
from app.storage.ledger_objects import BoundedObjects, LocalObjects, RemoteObjects, open_objects
from tests.support.ledgers import RECORD, append

if TYPE_CHECKING:
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_disk_that_refuses_makes_the_ledger_unavailable(
    ledger: Ledger, directory: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    head = append(ledger, 1)

    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(LedgerUnavailableError):
            ledger.append(head, [RECORD], 2)
    bucket = directory / "entries" / "000000000"
    assert os.listdir(bucket) == ["000000000001.json"]  # noqa: PTH208 # hidden files as well
    assert ledger.append(head, [RECORD], 2).number == 2


def test_directory_that_cannot_be_created_names_the_setting(
    tmp_path: Path, pseudonyms: Pseudonyms
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"cannot be created.*Set LETHE_LEDGER_URL"):
        open_ledger(str(tmp_path / "file" / "ledger"), pseudonyms)


@pytest.mark.parametrize("url", ["foo://secret@host/x", "memory://", "::", "file://", "s3://"])
def test_url_that_cannot_be_used_names_the_setting(url: str) -> None:
    with pytest.raises(InvalidInputError, match="LETHE_LEDGER_URL") as raised:
        open_objects(url, "0" * 16)
    assert "secret" not in str(raised.value)


def test_store_that_does_not_respond_is_given_up(root: Path, pseudonyms: Pseudonyms) -> None:
    released, calls = threading.Event(), []

    class Blocking(LocalObjects):
        def create(self, name: str, content: bytes) -> None:
            calls.append(name)
            if len(calls) == 1:
                released.wait()
            super().create(name, content)

    objects = BoundedObjects(Blocking(root, "0" * 16), 0.05)
    ledger = Ledger(objects, pseudonyms.ledger_key())
    for _ in range(3):
        with pytest.raises(LedgerUnavailableError):
            ledger.append(LedgerHead(), [RECORD], 1)
    assert len(calls) == 1  # While the first call blocks, further calls fail at once.
    late = objects._late
    assert late is not None
    released.set()
    late.result(30)
    # The late call created its entry, of which the database knows nothing.
    unbounded = Ledger(LocalObjects(root, "0" * 16), pseudonyms.ledger_key())
    with pytest.raises(LedgerAheadError):
        unbounded.append(LedgerHead(), [RECORD], 1)


class WithoutConditions(MemoryFileSystem):
    """A store whose `pipe_file` ignores unknown arguments."""

    def pipe_file(self, path: str, value: bytes, **_kwargs: Any) -> None:
        super().pipe_file(path, value)


def test_store_without_conditional_create_replaces_nothing() -> None:
    objects = RemoteObjects(WithoutConditions(), "/without-conditions")
    objects.create("a/b", b"first")
    with pytest.raises(FileExistsError):
        objects.create("a/b", b"second")
    assert objects.read(["a/b", "a/c"]) == {"a/b": b"first"}


def test_errors_of_a_remote_store_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    objects = RemoteObjects(files, "/errors")

    def refuse(*_arguments: Any, **_kwargs: Any) -> bytes:
        raise PermissionError

    monkeypatch.setattr(type(files), "cat_file", refuse)
    ledger = Ledger(objects, b"key")
    with pytest.raises(LedgerUnavailableError):
        ledger.entry(1)
