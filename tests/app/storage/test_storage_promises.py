"""Attempts to break promises of the storage: remains of uploads, ids in errors, errors untold."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import fsspec
import pytest
from sqlalchemy import exc

from app.domain.errors import DatabaseUnavailableError
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.maintenance import erase_remains

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database

PERSON = "person-8c1f0b7e"


def test_an_interrupted_upload_is_found_and_can_be_shredded(tmp_path: Path) -> None:
    """Killed between the weights and the marker, nothing refers to what lies there."""
    root = f"memory://{uuid.uuid4().hex}"
    remote = fsspec.filesystem("memory")
    path = f"{root.removeprefix('memory:/')}/releases/rel_1/weights.safetensors"
    remote.pipe_file(path, b"weights that know somebody")
    store = ArtifactStore(root, tmp_path / "cache")
    assert not store.exists("releases/rel_1")
    assert store.published() == ["releases/rel_1"]
    store.remove("releases/rel_1")
    assert not remote.exists(path)
    assert store.published() == []


def test_errors_of_the_database_do_not_quote_what_was_stored(database: Database) -> None:
    with pytest.raises(exc.DBAPIError) as caught, database.write.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO nowhere VALUES (%s)"
            if not database.is_sqlite
            else "INSERT INTO nowhere VALUES (?)",
            (PERSON,),
        )
    assert PERSON not in str(caught.value)


def test_erasing_without_a_database_says_that_it_is_away() -> None:
    database = make_database("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailableError):
        erase_remains(database)
