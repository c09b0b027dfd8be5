"""Failure cases of the storage: interrupted uploads, ids in errors, and an absent database."""

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


def test_interrupted_upload_is_listed_and_can_be_removed(tmp_path: Path) -> None:
    """The upload stopped after the weights and before the marker."""
    root = f"memory://{uuid.uuid4().hex}"
    remote = fsspec.filesystem("memory")
    path = f"{root.removeprefix('memory:/')}/releases/rel_1/weights.safetensors"
    remote.pipe_file(path, b"weights of a deleted user")
    store = ArtifactStore(root, tmp_path / "cache")
    assert not store.exists("releases/rel_1")
    assert store.published() == ["releases/rel_1"]
    store.remove("releases/rel_1")
    assert not remote.exists(path)
    assert store.published() == []


def test_database_error_does_not_contain_parameters(database: Database) -> None:
    with pytest.raises(exc.DBAPIError) as caught, database.write.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO nowhere VALUES (%s)"
            if not database.is_sqlite
            else "INSERT INTO nowhere VALUES (?)",
            (PERSON,),
        )
    assert PERSON not in str(caught.value)


def test_erase_without_database_raises_database_unavailable() -> None:
    database = make_database("postgresql://postgres@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailableError):
        erase_remains(database)
