"""The secrets of an installation: creation, file modes and validation."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from app.domain.errors import InvalidInputError
from app.private_files import create_once
from app.services.secrets import HASH_KEY_FILE, load_pseudonyms, load_signer
from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_keys_are_created_once_with_private_file_modes(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hash_key=None, signing_key=None)
    first, signer = load_pseudonyms(settings), load_signer(settings)
    assert load_pseudonyms(settings) == first
    assert load_signer(settings).public_pem() == signer.public_pem()
    files = sorted(settings.keys_directory.iterdir())
    assert [path.name for path in files] == ["hash.key", "signing.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_concurrent_processes_share_one_key(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(number: int) -> bytes:
        barrier.wait()
        return create_once(tmp_path / "keys" / "k", lambda: str(number).encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["k"]


def test_key_from_settings_creates_no_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hash_key=SecretStr("k" * 32), signing_key=None)
    assert load_pseudonyms(settings).key == b"k" * 32
    assert not settings.keys_directory.exists()


def test_short_or_malformed_key_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hash_key=SecretStr("short"), signing_key=SecretStr("no"))
    with pytest.raises(InvalidInputError):
        load_pseudonyms(settings)
    with pytest.raises(InvalidInputError):
        load_signer(settings)


@pytest.mark.parametrize("content", [b"", b"short"])
def test_short_key_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    settings = Settings(home=tmp_path, hash_key=None, signing_key=None)
    path = settings.keys_directory / HASH_KEY_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError) as error:
        load_pseudonyms(settings)
    assert f"The key file {path} has {len(content)} bytes" in str(error.value)
    assert "Restore the file from a backup" in str(error.value)
    assert "LETHE_HASH_KEY" not in str(error.value)
    assert path.read_bytes() == content
