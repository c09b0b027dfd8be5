"""Decide whether the drift budget of a lineage is spent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.domain.releases import Release, ReleaseStatus
from app.domain.renewal import (
    ExactMode,
    RenewalPolicy,
    RenewalReason,
    RenewalState,
    is_budget_spent,
    plan,
)

POLICY = RenewalPolicy(mode=ExactMode.DEADLINE, drift_rows=0.1, drift_loss=0.05)
RELEASE = Release(
    id="rel_1",
    digest="0",
    parent=None,
    job_id="job_1",
    status=ReleaseStatus.LIVE,
    method="retrain",
    outcome=None,
    path="releases/rel_1",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("share", "drift", "is_spent"),
    [
        (0.0, 0.0, False),
        (0.1, 0.05, False),
        (0.11, 0.0, True),
        (0.0, 0.06, True),
        (None, 0.0, True),
    ],
)
def test_budget_is_one_rule_for_plans_and_builders(
    share: float | None, drift: float, is_spent: bool
) -> None:
    assert is_budget_spent(POLICY, share, drift) is is_spent
    state = RenewalState(
        now=0.0, approximate=1, training_seconds=1.0, forgotten_share=share, drift=drift
    )
    reasons = plan(state, POLICY).reason
    assert (reasons is RenewalReason.DRIFT) is is_spent


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, None),
        ({"training_rows": 200}, 0.0),
        ({"training_rows": 200, "forgotten_rows": 30}, 0.15),
        ({"training_rows": 0}, 0.0),
    ],
)
def test_share_of_forgotten_rows(changes: dict[str, Any], share: float | None) -> None:
    assert replace(RELEASE, **changes).forgotten_share == share


@pytest.mark.parametrize(
    ("drift", "increase"),
    [(None, 0.0), ({"increase": 0.2}, 0.2), ({"increase": None}, 0.0), ({}, 0.0)],
)
def test_drift_that_is_not_measured_is_none(drift: dict[str, Any] | None, increase: float) -> None:
    assert replace(RELEASE, drift=drift).loss_increase == increase
