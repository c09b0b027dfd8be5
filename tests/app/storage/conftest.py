"""Fixtures of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.storage.ledger import Ledger, open_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def directory(root: Path, pseudonyms: Pseudonyms) -> Path:
    return root / pseudonyms.fingerprint()[:16]


@pytest.fixture
def ledger(root: Path, pseudonyms: Pseudonyms) -> Ledger:
    return open_ledger(str(root), pseudonyms)
