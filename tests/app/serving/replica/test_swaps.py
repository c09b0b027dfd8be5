"""Test release switches under load, with a small run of the swap benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.swaps import soak

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_during_swaps_no_answer_fails_or_mixes_releases(tmp_path: Path) -> None:
    result = soak(tmp_path, swaps=12, replicas=2)
    assert result["failures"] == {}
    assert result["torn"] == 0
    # The benchmark answered queries during swaps, and its check distinguishes releases.
    assert result["milliseconds_during_swaps"]["answers"] > 0
    assert result["checked_against_the_release_before"] > 0
    assert result["agree_with_the_release_before"] == 0
