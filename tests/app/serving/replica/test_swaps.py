"""Swaps under load, as the benchmark does a thousand of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.swaps import soak

if TYPE_CHECKING:
    from pathlib import Path


def test_no_answer_fails_and_none_mixes_releases_during_swaps(tmp_path: Path) -> None:
    found = soak(tmp_path, swaps=12, replicas=2)
    assert found["failures"] == {}
    assert found["torn"] == 0
    # The load was there, during the swaps too, and the check tells releases apart.
    assert found["milliseconds_during_swaps"]["answers"] > 0
    assert found["checked_against_the_release_before"] > 0
    assert found["agree_with_the_release_before"] == 0
