"""Manifest entries of other versions of Lethe: they cost a training, not the job."""

from __future__ import annotations

from typing import Any

import pytest

from models.audit.memorization import Memorization
from models.checkpoints.manifest import Manifest
from worker.release_files import MEMORIZATION, memorization

VALUES = {"own": 0.1, "history": 0.5, "error": 0.1, "gain": 0.2, "gain_error": 0.02, "people": 30.0}


def manifest(extra: dict[str, Any]) -> Manifest:
    return Manifest(
        digest="", weights_digest="", method="retrain", parent=None, extra=extra, content={}
    )


def test_stored_values_are_read() -> None:
    stored = manifest({MEMORIZATION: {"user": VALUES}})
    assert memorization(stored) == {"user": Memorization(**VALUES)}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {MEMORIZATION: None},
        {MEMORIZATION: {"user": {**VALUES, "later": 1.0}}},
        {MEMORIZATION: {"user": {"own": 0.1}}},
        {MEMORIZATION: {"user": None}},
        {MEMORIZATION: [VALUES]},
    ],
    ids=["earlier version", "null", "unknown field", "missing fields", "null kind", "a list"],
)
def test_other_versions_have_no_memorization(extra: dict[str, Any]) -> None:
    assert memorization(manifest(extra)) == {}
