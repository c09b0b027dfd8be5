"""The guide of erasure lists every table and every file of an installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.tables import Base
from tests.support.traces import guide_rows

if TYPE_CHECKING:
    from pathlib import Path

    from app.storage.engine import Database


def test_guide_lists_every_table() -> None:
    assert set(guide_rows("Tables")) == {*Base.metadata.tables, "alembic_version"}


def test_guide_lists_every_directory_of_the_home(sqlite_database: Database, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    store = ArtifactStore(settings.artifacts_root, tmp_path / "cache")
    store.staging("job_1", 1)
    with store.writing_adapter("rel_1") as directory:
        (directory / "adapter").write_text("")
    with sqlite_database.write.begin() as connection:
        connection.exec_driver_sql("UPDATE state SET data_version = 1")
    listed = set(guide_rows("Files of `LETHE_HOME`"))
    artifacts = {f"artifacts/{path.name}" for path in (tmp_path / "artifacts").iterdir()}
    names = {path.name for path in tmp_path.iterdir()} - {"artifacts"}
    assert names | artifacts <= listed
    assert {settings.backbones_directory.name, "keys"} <= listed
