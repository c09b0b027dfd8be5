"""Registered keys: which one is current, rotation, and the published document."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from app.domain.errors import InvalidInputError, SigningKeyRetiredError
from app.services.secrets import SIGNING_KEY_FILE, load_signer
from app.services.signatures import Signer
from app.services.signing_keys import keys_document, register, rotate, trusted_keys
from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.certificates import SigningKey
    from app.storage.unit_of_work import UnitOfWorkFactory


def new_signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def stored(factory: UnitOfWorkFactory) -> list[SigningKey]:
    with factory(write=False) as uow:
        return uow.signing_keys.all()


def test_newest_registered_key_is_current(uow_factory: UnitOfWorkFactory) -> None:
    first, second = new_signer(), new_signer()
    for signer in (first, first, second):
        with uow_factory() as uow:
            register(uow, signer)
    old, current = stored(uow_factory)
    assert (old.key_id, current.key_id) == (first.key_id, second.key_id)
    assert old.retired_at == current.valid_from
    assert current.retired_at is None
    assert old.public_pem == first.public_pem().decode()


def test_two_workers_with_different_keys_do_not_retire_each_other_in_turn(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """The worker with the older key fails at every start instead of taking over again."""
    first, second = new_signer(), new_signer()
    for signer in (first, second):
        with uow_factory() as uow:
            register(uow, signer)
    before = stored(uow_factory)
    for _ in range(2):
        with pytest.raises(SigningKeyRetiredError, match=first.key_id), uow_factory() as uow:
            register(uow, first)
        with uow_factory() as uow:
            register(uow, second)
    assert stored(uow_factory) == before


def test_workers_that_start_at_once_register_one_current_key(
    uow_factory: UnitOfWorkFactory,
) -> None:
    signers = [new_signer(), new_signer()] * 4
    barrier = Barrier(len(signers))

    def start(signer: Signer) -> str:
        barrier.wait()
        try:
            with uow_factory() as uow:
                register(uow, signer)
        except SigningKeyRetiredError:
            return "retired"
        return "started"

    with ThreadPoolExecutor(len(signers)) as pool:
        results = list(pool.map(start, signers))
    keys = stored(uow_factory)
    assert len(keys) == 2
    assert [key.retired_at is None for key in keys] == [False, True]
    assert "started" in results


class TestRotation:
    """`rotate` replaces the key file."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(home=tmp_path, signing_key=None)

    def test_new_key_is_current_and_old_private_key_is_gone(
        self, uow_factory: UnitOfWorkFactory, settings: Settings
    ) -> None:
        old = load_signer(settings)
        with uow_factory() as uow:
            new = rotate(uow, settings)
        assert load_signer(settings).key_id == new.key_id != old.key_id
        first, second = stored(uow_factory)
        # No worker had registered the old key, but its certificates must stay verifiable.
        assert (first.key_id, first.retired_at) == (old.key_id, new.valid_from)
        assert second == new
        files = list(settings.keys_directory.iterdir())
        assert [path.name for path in files] == [SIGNING_KEY_FILE]
        assert files[0].stat().st_mode & 0o777 == 0o600

    def test_crash_before_the_commit_heals_at_the_next_registration(
        self, uow_factory: UnitOfWorkFactory, settings: Settings
    ) -> None:
        with uow_factory() as uow:
            register(uow, load_signer(settings))

        def rotate_and_die() -> None:
            with uow_factory() as uow:
                rotate(uow, settings)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rotate_and_die()
        with uow_factory() as uow:
            current = register(uow, load_signer(settings))
        assert current.key_id == load_signer(settings).key_id
        assert [key.retired_at is None for key in stored(uow_factory)] == [False, True]

    def test_file_that_cannot_be_replaced_changes_nothing(
        self,
        uow_factory: UnitOfWorkFactory,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with uow_factory() as uow:
            current = register(uow, load_signer(settings))

        def full(_descriptor: int) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"), uow_factory() as uow:
            rotate(uow, settings)
        monkeypatch.undo()
        assert load_signer(settings).key_id == current.key_id
        assert stored(uow_factory) == [current]
        assert len(list(settings.keys_directory.iterdir())) == 1

    def test_key_of_the_environment_cannot_be_rotated(
        self, uow_factory: UnitOfWorkFactory, settings: Settings
    ) -> None:
        for update in ({"signing_key": SecretStr("any")}, {"environment": "production"}):
            with pytest.raises(InvalidInputError, match="LETHE_SIGNING_KEY"), uow_factory() as uow:
                rotate(uow, settings.model_copy(update=update))
        assert not settings.keys_directory.exists()

    def test_rotation_on_a_machine_without_the_key_retires_nothing(
        self, uow_factory: UnitOfWorkFactory, settings: Settings
    ) -> None:
        """Otherwise the command in a gateway's container would retire the workers' key."""
        with uow_factory() as uow:
            register(uow, new_signer())
        before = stored(uow_factory)
        with pytest.raises(InvalidInputError, match="LETHE_SIGNING_KEY"), uow_factory() as uow:
            rotate(uow, settings)
        load_signer(settings)  # Another machine's worker has a key file of its own, now retired.
        with uow_factory() as uow:
            register(uow, load_signer(settings))
        newest = new_signer()
        with uow_factory() as uow:
            register(uow, newest)
        with pytest.raises(SigningKeyRetiredError), uow_factory() as uow:
            rotate(uow, settings)
        assert [key.key_id for key in stored(uow_factory) if key.retired_at is None] == [
            newest.key_id
        ]
        assert len(before) == 1


@pytest.fixture
def document(uow_factory: UnitOfWorkFactory) -> dict[str, Any]:
    for _ in range(2):
        with uow_factory() as uow:
            register(uow, new_signer())
    return keys_document(stored(uow_factory))


def test_published_keys_are_read_back(
    document: dict[str, Any], uow_factory: UnitOfWorkFactory
) -> None:
    for key, row in zip(trusted_keys(document), stored(uow_factory), strict=True):
        assert (key.key_id, key.valid_from, key.retired_at) == (
            row.key_id,
            row.valid_from,
            row.retired_at,
        )


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "0" * 64},
        {"algorithm": "RSA"},
        {"public_key": "none"},
        {"public_key": 5},
        {"valid_from": "2026-01-01T00:00:00"},
        {"valid_from": None},
        {"retired_at": "soon"},
    ],
)
def test_malformed_key_document_is_refused(
    document: dict[str, Any], change: dict[str, Any]
) -> None:
    changed = copy.deepcopy(document)
    changed["keys"][0] |= change
    for broken in (changed, {"keys": []}, {"keys": [1]}, {"keys": {}}, [], {}):
        with pytest.raises(InvalidInputError, match="lethe-keys"):
            trusted_keys(broken)
