"""Artefacts: published whole, removed with their digests, never outside the root."""

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


def test_what_is_published_can_be_read(store: ArtifactStore) -> None:
    assert not store.exists("releases/rel_1")
    staged = stage(store)
    store.publish(staged, "releases/rel_1")
    assert not staged.exists()
    assert store.exists("releases/rel_1")
    assert contents(store.local_path("releases/rel_1")) == CONTENT
    assert store.published() == ["releases/rel_1"]


def test_publishing_again_is_harmless(store: ArtifactStore) -> None:
    store.publish(stage(store, epoch=1), "releases/rel_1")
    store.publish(stage(store, epoch=2), "releases/rel_1")
    assert contents(store.local_path("releases/rel_1")) == CONTENT
    assert store.remove_incoming() == {}


def test_other_leftovers_are_replaced(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), tmp_path)
    left = tmp_path / "releases" / "rel_1"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    store.publish(stage(store), "releases/rel_1")
    assert contents(left) == CONTENT


def test_removing_tells_what_was_unlinked(store: ArtifactStore) -> None:
    store.publish(stage(store), "releases/rel_1")
    store.local_path("releases/rel_1")
    expected = {f"releases/rel_1/{name}": digest for name, digest in DIGESTS.items()}
    assert store.remove("releases/rel_1") == expected
    assert not store.exists("releases/rel_1")
    assert store.published() == []
    with pytest.raises(FileNotFoundError):
        store.local_path("releases/rel_1")
    assert store.remove("releases/rel_1") == {}


def test_an_open_reader_keeps_what_it_has(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), tmp_path)
    store.publish(stage(store), "releases/rel_1")
    with (store.local_path("releases/rel_1") / "weights.safetensors").open("rb") as reader:
        store.remove("releases/rel_1")
        assert reader.read() == b"weights"


def test_lower_epochs_are_removed_and_the_current_one_stays(store: ArtifactStore) -> None:
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
def test_paths_stay_below_the_root(store: ArtifactStore, path: str) -> None:
    for use in (store.exists, store.local_path, store.remove):
        with pytest.raises(InvalidInputError):
            use(path)
    with pytest.raises(InvalidInputError):
        store.staging("../x", 1)


def write_adapter(store: ArtifactStore, release_id: str, content: bytes = b"adapter") -> None:
    with store.writing_adapter(release_id) as directory:
        (directory / "adapter_model.safetensors").write_bytes(content)


def test_adapters_for_engines_lie_on_this_machine_whole_or_not_at_all(
    store: ArtifactStore,
) -> None:
    write_adapter(store, "rel_1")
    write_adapter(store, "rel_1")  # By a sibling, the same: what is there stays.
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


def test_removing_an_adapter_tells_what_was_unlinked(store: ArtifactStore) -> None:
    write_adapter(store, "rel_1")
    removed = store.remove(store.adapter_path("rel_1"))
    digest = hashlib.sha256(b"adapter").hexdigest()
    assert removed == {"adapters/rel_1/adapter_model.safetensors": digest}
    assert store.adapters() == []
