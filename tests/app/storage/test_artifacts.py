"""The artifact store publishes atomically, reports digests, and stays below its root."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import InvalidInputError
from app.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {"weights.safetensors": b"weights", "golden/logits.json": b"[1]"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    local = str(tmp_path / "root")
    root = local if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return ArtifactStore(root, tmp_path / "cache")


def stage(store: ArtifactStore, job_id: str = "job_1", epoch: int = 1) -> Path:
    directory = store.staging(job_id, epoch) / "release"
    for name, content in CONTENT.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_published_artifact_can_be_read(store: ArtifactStore) -> None:
    assert not store.exists("releases/rel_1")
    staged = stage(store)
    store.publish(staged, "releases/rel_1")
    assert not staged.exists()
    assert store.exists("releases/rel_1")
    assert contents(store.local_path("releases/rel_1")) == CONTENT
    assert store.published() == ["releases/rel_1"]


def test_one_file_of_published_artifact_can_be_read(tmp_path: Path, store: ArtifactStore) -> None:
    store.publish(stage(store), "releases/rel_1")
    assert store.read_text("releases/rel_1", "golden/logits.json") == "[1]"
    # A remote artifact is not downloaded for one file.
    assert not (tmp_path / "cache" / "releases").exists()
    with pytest.raises(FileNotFoundError):
        store.read_text("releases/rel_1", "absent.json")


def test_second_publication_changes_nothing(store: ArtifactStore) -> None:
    store.publish(stage(store, epoch=1), "releases/rel_1")
    store.publish(stage(store, epoch=2), "releases/rel_1")
    assert contents(store.local_path("releases/rel_1")) == CONTENT
    assert store.remove_incoming() == {}


def test_incomplete_artifact_is_replaced(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), tmp_path)
    incomplete = tmp_path / "releases" / "rel_1"
    incomplete.mkdir(parents=True)
    (incomplete / "half").write_bytes(b"half")
    store.publish(stage(store), "releases/rel_1")
    assert contents(incomplete) == CONTENT


def test_remove_returns_digests_of_unlinked_files(store: ArtifactStore) -> None:
    store.publish(stage(store), "releases/rel_1")
    store.local_path("releases/rel_1")
    expected = {f"releases/rel_1/{name}": digest for name, digest in DIGESTS.items()}
    assert store.remove("releases/rel_1") == expected
    assert not store.exists("releases/rel_1")
    assert store.published() == []
    with pytest.raises(FileNotFoundError):
        store.local_path("releases/rel_1")
    assert store.remove("releases/rel_1") == {}


def test_open_file_stays_readable_after_removal(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), tmp_path)
    store.publish(stage(store), "releases/rel_1")
    with (store.local_path("releases/rel_1") / "weights.safetensors").open("rb") as reader:
        store.remove("releases/rel_1")
        assert reader.read() == b"weights"


def test_remove_staging_keeps_the_current_epoch(store: ArtifactStore) -> None:
    for epoch in (1, 2, 10):
        stage(store, epoch=epoch)
    stage(store, job_id="job_2")
    removed = store.remove_staging("job_1", below_epoch=10)
    assert set(removed) == {f"staging/job_1/{e}/release/{n}" for e in (1, 2) for n in CONTENT}
    assert store.staging("job_1", 10).joinpath("release").is_dir()
    store.remove_staging("job_1")
    assert store.staged_jobs() == ["job_2"]


@pytest.mark.parametrize(
    "path", ["", "..", "releases/../..", "/etc", "a//b", "a/./b", ".hidden", "a\\b", "a/\x00"]
)
def test_path_outside_the_root_is_refused(store: ArtifactStore, path: str) -> None:
    for use in (store.exists, store.local_path, store.remove):
        with pytest.raises(InvalidInputError):
            use(path)
    with pytest.raises(InvalidInputError):
        store.staging("../x", 1)


def write_adapter(store: ArtifactStore, release_id: str, content: bytes = b"adapter") -> None:
    with store.writing_adapter(release_id) as directory:
        (directory / "adapter_model.safetensors").write_bytes(content)


def test_adapter_is_written_completely_or_not_at_all(
    store: ArtifactStore,
) -> None:
    write_adapter(store, "rel_1")
    write_adapter(store, "rel_1")  # The same content from another replica.
    relative = store.adapter_path("rel_1")
    assert contents(store.local_path(relative)) == {"adapter_model.safetensors": b"adapter"}
    assert store.adapters() == ["rel_1"]
    assert store.published() == []

    def interrupted() -> None:
        with store.writing_adapter("rel_2") as directory:
            (directory / "adapter_config.json").write_text("{")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        interrupted()
    assert store.adapters() == ["rel_1"]
    assert store.remove_incoming() == {}


def test_remove_returns_digests_of_adapter_files(store: ArtifactStore) -> None:
    write_adapter(store, "rel_1")
    removed = store.remove(store.adapter_path("rel_1"))
    digest = hashlib.sha256(b"adapter").hexdigest()
    assert removed == {"adapters/rel_1/adapter_model.safetensors": digest}
    assert store.adapters() == []
