"""Waiting until a deletion is exact, and the text about its exact training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli.renewals import exact_outlook, wait_until_exact
from app.cli.screen import Screen
from app.domain.renewal import ExactMode

if TYPE_CHECKING:
    import pytest

APPROXIMATE = {"assurance": "approximate", "exact_due_at": "2026-12-29T10:00:00+00:00"}
EXACT = {**APPROXIMATE, "assurance": "exact"}


def renewal(number: int, status: str, **changes: Any) -> dict[str, Any]:
    job = {"id": f"job_{number}", "kind": "renew", "status": status, "stage": "train"}
    return job | {"progress": 0.5, "error": None} | changes


def wait(
    steps: list[tuple[dict[str, Any], list[dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> str:
    """Wait while each poll sees the next step, which is a request and the newest jobs."""
    polls = iter(steps)
    present = steps[0]

    def read_request() -> dict[str, Any]:
        nonlocal present
        present = next(polls)
        return present[0]

    request = wait_until_exact(Screen.make(as_json=False), read_request, lambda: present[1])
    assert request is steps[-1][0]
    return capsys.readouterr().out


def test_wait_shows_the_stages_of_the_renewal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = wait(
        [
            (APPROXIMATE, []),
            (APPROXIMATE, []),
            (APPROXIMATE, [renewal(1, "running")]),
            (EXACT, [renewal(1, "running")]),
        ],
        capsys,
    )
    assert "50%  training" in shown
    assert "100%  done" in shown


def test_wait_reports_renewals_that_fail_meanwhile_once(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = renewal(1, "failed", error="of the past")
    failed = renewal(2, "failed", error="worse than item mean [x]")
    shown = wait(
        [
            (APPROXIMATE, [earlier]),
            (APPROXIMATE, [renewal(2, "running"), earlier]),
            (APPROXIMATE, [failed, earlier]),
            (APPROXIMATE, [renewal(3, "running"), failed, earlier]),
            (EXACT, [renewal(3, "running"), failed, earlier]),
        ],
        capsys,
    )
    assert shown.count("failed, and repeated: worse than item mean [x]") == 1
    assert "of the past" not in shown


def test_outlook_names_the_promised_time() -> None:
    outlook = exact_outlook(APPROXIMATE, ExactMode.SOON)
    assert outlook is not None
    assert "by 2026-12-29 10:00:00 UTC" in outlook
    without_time = exact_outlook({**APPROXIMATE, "exact_due_at": None}, ExactMode.SOON)
    assert without_time is not None
    assert " by " not in without_time


def test_outlook_tells_that_no_renewal_comes() -> None:
    outlook = exact_outlook(APPROXIMATE, ExactMode.OFF)
    assert outlook is not None
    assert "LETHE_EXACT is off" in outlook


def test_exact_deletion_has_no_outlook() -> None:
    assert exact_outlook(EXACT, ExactMode.SOON) is None
