"""Copies of remote artifacts stay while a process of this machine reads them, and no longer."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from app.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "releases/rel_1.job_1.1"
CONTENT = {"weights": b"weights" * 1000, "manifest": b"{}"}
READER = """
import sys
from pathlib import Path
from app.storage.artifacts import ArtifactStore
with ArtifactStore(sys.argv[1], Path(sys.argv[2])).reading(sys.argv[3]) as directory:
    print("reading", flush=True)
    sys.stdin.readline()
    print((directory / "weights").stat().st_size, flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "remote").mkdir()
    return f"dir::file://{tmp_path / 'remote'}"


@pytest.fixture
def store(root: str, tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(root, tmp_path / "cache")
    directory = store.staging("job_1", 1) / "release"
    directory.mkdir()
    for name, content in CONTENT.items():
        (directory / name).write_bytes(content)
    store.publish(directory, PATH)
    return store


@pytest.fixture
def reader(
    store: ArtifactStore,  # noqa: ARG001 - the release must exist
    root: str,
    tmp_path: Path,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, root, str(tmp_path / "cache"), PATH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    yield process
    process.kill()
    process.communicate()


def test_eviction_leaves_copy_to_reader_in_other_process(
    store: ArtifactStore, reader: subprocess.Popen[str]
) -> None:
    with store.reading(PATH):
        pass
    assert store.evict(PATH) == {}
    assert store.evict_all() == {}
    output, _ = reader.communicate("\n")
    assert output == f"{len(CONTENT['weights'])}\n"
    assert set(store.evict_all()) == {f"{PATH}/{name}" for name in CONTENT}
    assert store.copies() == []


def test_removal_leaves_copy_to_reader_and_removes_remote_files(
    store: ArtifactStore, reader: subprocess.Popen[str]
) -> None:
    assert set(store.remove(PATH)) == {f"{PATH}/{name}" for name in CONTENT}
    assert store.published() == []
    assert store.copies() == [PATH]
    reader.communicate("\n")
    store.evict_all()
    assert store.copies() == []


def test_killed_reader_holds_no_copy(store: ArtifactStore, reader: subprocess.Popen[str]) -> None:
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    store.evict_all()
    assert store.copies() == []


def test_readers_and_evictions_at_once_read_complete_copies(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    def read(_: int) -> list[int]:
        own = ArtifactStore(root, tmp_path / "cache")
        sizes = []
        for _ in range(30):
            with own.reading(PATH) as directory:
                sizes.extend((directory / name).stat().st_size for name in CONTENT)
            own.evict(PATH)
            own.remove_incoming()
        return sizes

    with ThreadPoolExecutor(6) as pool:
        for sizes in pool.map(read, range(6)):
            assert sizes == [len(content) for content in CONTENT.values()] * 30
    assert store.copies() == []
    assert list((tmp_path / "cache" / "locks").iterdir()) == []


def test_unfinished_copy_of_living_process_stays(store: ArtifactStore) -> None:
    with store.writing_adapter("rel_1") as directory:
        (directory / "adapter").write_bytes(b"1")
        assert store.remove_incoming(with_publications=True) == {}
    assert store.adapters() == ["rel_1"]


def test_unfinished_copy_of_earlier_version_is_removed(
    store: ArtifactStore, tmp_path: Path
) -> None:
    leftover = tmp_path / "cache" / "incoming" / "0123" / "artifact" / "weights"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"w")
    assert list(store.remove_incoming()) == ["incoming/0123/artifact/weights"]


def test_upload_stops_when_check_fails(store: ArtifactStore) -> None:
    directory = store.staging("job_1", 2) / "release"
    directory.mkdir()
    for name, content in CONTENT.items():
        (directory / name).write_bytes(content)
    checks = iter([None, OSError])

    def check() -> None:
        if next(checks) is not None:
            raise OSError

    path = store.release_path("rel_1", "job_1", 2)
    with pytest.raises(OSError, match=r"^$"):
        store.publish(directory, path, check)
    assert not store.exists(path)
    assert list(store.remove(path)) == [f"{path}/manifest"]


def test_machine_is_named_once_per_disk(root: str, tmp_path: Path) -> None:
    names = {ArtifactStore(root, tmp_path / "cache").machine for _ in range(3)}
    assert len(names) == 1
    assert ArtifactStore(root, tmp_path / "other").machine not in names
    assert (tmp_path / "cache" / "machine-id").stat().st_mode & 0o777 == 0o600


def test_claim_ends_when_its_process_has_ended(store: ArtifactStore) -> None:
    with store.claim_lock("job_1", 1):
        staging = store.staging("job_1", 1)
        (staging / "weights").write_bytes(b"w")
        assert not store.end_claim("job_1", 1)
        assert not staging.exists()
    assert store.end_claim("job_1", 1)


@pytest.mark.parametrize(
    ("path", "claim"),
    [("releases/rel_1.job_2.3", ("job_2", 3)), ("releases/rel_1", None), ("releases/a.b", None)],
)
def test_claim_in_path_of_release(path: str, claim: tuple[str, int] | None) -> None:
    assert ArtifactStore.claim_of(path) == claim
