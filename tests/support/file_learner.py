"""Provide a learner whose weights are the list of their training rows, in a JSON file.

Tests can read from the weights which rows a release depends on. Unlearning removes rows from the
list.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from app.domain.requests import Outcome
from worker.learner import Artifact, DataSnapshot, RequestFigures, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.settings import Settings
    from models.runtime.progress import Progress
    from worker.learner import ForgetSet

WEIGHTS = "weights.json"
MANIFEST = "manifest.json"


class FileLearner:
    """Implements `worker.learner.Learner`. Audits return `verdicts` in order, then `passed`."""

    def __init__(self, _settings: Settings, verdicts: Sequence[Outcome] = ()) -> None:
        self._verdicts = list(verdicts)

    def train(
        self, snapshot: DataSnapshot, into: Path, _backbone: str | Path, report: Progress
    ) -> Artifact:
        report(0.5)
        retained = [
            row
            for row in _rows(snapshot)
            if row[0] not in snapshot.holdout and not _is_forgotten(row, snapshot.forget)
        ]
        report(1.0)
        return _save(into, retained, {"method": "retrain", "job": snapshot.job_id})

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        report(0.1)
        delta = [row for row in read_weights(parent) if _is_forgotten(row, snapshot.forget)]
        manifest = {"method": "e2urec", "job": snapshot.job_id, "strength": strength}
        artifact = _save(into, delta, manifest)
        report(1.0)
        return artifact

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        delta = read_weights(adapter)
        retained = [row for row in read_weights(parent) if row not in delta]
        manifest = json.loads((adapter / MANIFEST).read_text())
        return _save(into, retained, {"method": "e2urec", "job": manifest["job"]})

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        return _save(into, read_weights(parent), {"method": "carry_over", "job": job_id})

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        return any(_is_forgotten(row, snapshot.forget) for row in read_weights(parent))

    def audit(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        report(1.0)
        before, after = read_weights(parent), read_weights(candidate)
        remaining = [row for row in after if _is_forgotten(row, snapshot.forget)]
        figures = {"left": len(remaining), "before": len(before), "exact": exact}
        by_request = {
            request_id: RequestFigures(
                forget={
                    "rows": sum(_is_forgotten(row, forget) for row in before),
                    "left": sum(_is_forgotten(row, forget) for row in after),
                }
            )
            for request_id, forget in snapshot.requests.items()
        }
        outcome = Outcome.FAILED
        if not remaining:
            outcome = self._verdicts.pop(0) if self._verdicts and not exact else Outcome.PASSED
        return Verdict(outcome=outcome, figures=figures, by_request=by_request)


def read_weights(directory: Path) -> list[list[str]]:
    """Return the [user id, item id] rows that the weights were trained on."""
    rows: list[list[str]] = json.loads((directory / WEIGHTS).read_text())
    return rows


def _rows(snapshot: DataSnapshot) -> list[list[str]]:
    data = snapshot.data
    return [
        [data.users[user].id, data.items[item].id]
        for user, item in zip(data.user.tolist(), data.item.tolist(), strict=True)
    ]


def _is_forgotten(row: Sequence[str], forget: ForgetSet) -> bool:
    user, item = row
    return user in forget.users or item in forget.items or (user, item) in forget.pairs


def _save(into: Path, rows: list[list[str]], manifest: dict[str, Any]) -> Artifact:
    into.mkdir(parents=True)
    weights = json.dumps(rows).encode()
    content = json.dumps(manifest | {"weights": hashlib.sha256(weights).hexdigest()})
    (into / WEIGHTS).write_bytes(weights)
    (into / MANIFEST).write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Artifact(
        directory=into, digest=digest, method=manifest["method"], metrics={"rows": len(rows)}
    )
