"""Provide a learner whose weights are the list of their training rows, in a JSON file.

Tests can read from the weights which rows a release depends on. Unlearning removes rows from the
list.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.domain.requests import Outcome
from worker.learner import Artifact, DataSnapshot, RequestFigures, Verdict
from worker.training_record import TrainingRecord, are_unknown, count_known_rows

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
        self,
        snapshot: DataSnapshot,
        into: Path,
        _backbone: str | Path,
        report: Progress,
        *,
        renewal_seed: int | None = None,
    ) -> Artifact:
        report(0.5)
        retained = [
            row
            for row in _rows(snapshot)
            if row[0] not in snapshot.holdout and not _is_forgotten(row, snapshot.forget)
        ]
        report(1.0)
        record = TrainingRecord.of(snapshot).manifest()
        artifact = _save(into, retained, {"method": "retrain", "job": snapshot.job_id}, record)
        metrics = {**artifact.metrics, "seed": renewal_seed or 0}
        return replace(artifact, metrics=metrics, training_rows=len(retained))

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        report(0.1)
        delta = [row for row in read_weights(parent) if _is_forgotten(row, snapshot.forget)]
        manifest = {"method": "e2urec", "job": snapshot.job_id, "strength": strength}
        artifact = _save(into, delta, manifest, _extra(parent))
        report(1.0)
        return artifact

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        delta = read_weights(adapter)
        retained = [row for row in read_weights(parent) if row not in delta]
        manifest = json.loads((adapter / MANIFEST).read_text())
        values = {"method": "e2urec", "job": manifest["job"]}
        return _save(into, retained, values, _extra(parent))

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        values = {"method": "carry_over", "job": job_id}
        return _save(into, read_weights(parent), values, _extra(parent))

    def must_retrain(self, snapshot: DataSnapshot, parent: Path) -> bool:
        return any(are_unknown(snapshot, _record(parent), [snapshot.forget]))

    def unmeasured_kinds(self, snapshot: DataSnapshot, parent: Path) -> tuple[str, ...]:
        del snapshot, parent
        return ()

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        record = _record(parent)
        known = snapshot if record is None else snapshot.take(record.known_rows(snapshot))
        return any(
            row[0] not in snapshot.holdout and _is_forgotten(row, snapshot.forget)
            for row in _rows(known)
        )

    def count_known_rows(self, snapshot: DataSnapshot, parent: Path) -> dict[str, int | None]:
        return count_known_rows(snapshot, _record(parent))

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
        requests = snapshot.requests
        unknown = are_unknown(snapshot, _record(parent), requests.values())
        outcome = Outcome.FAILED
        if not remaining:
            outcome = self._verdicts.pop(0) if self._verdicts and not exact else Outcome.PASSED
        by_request = {
            request_id: RequestFigures(
                forget={
                    "rows": sum(_is_forgotten(row, forget) for row in before),
                    "left": sum(_is_forgotten(row, forget) for row in after),
                    # Each person has the outcome of the batch.
                    "persons": {
                        outcome.value: len({u for u, i in before if _is_forgotten([u, i], forget)})
                    },
                },
                is_unknown=is_unknown,
            )
            for (request_id, forget), is_unknown in zip(requests.items(), unknown, strict=True)
        }
        forgotten = sum(_is_forgotten(row, snapshot.forget) for row in before)
        return Verdict(
            outcome=outcome, figures=figures, by_request=by_request, forgotten_rows=forgotten
        )


def read_weights(directory: Path) -> list[list[str]]:
    """Return the [user id, item id] rows that the weights were trained on."""
    rows: list[list[str]] = json.loads((directory / WEIGHTS).read_text())
    return rows


def _extra(directory: Path) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads((directory / MANIFEST).read_text()).get("extra", {})
    return extra


def _record(directory: Path) -> TrainingRecord | None:
    return TrainingRecord.from_manifest(_extra(directory))


def _rows(snapshot: DataSnapshot) -> list[list[str]]:
    data = snapshot.data
    return [
        [data.users[user].id, data.items[item].id]
        for user, item in zip(data.user.tolist(), data.item.tolist(), strict=True)
    ]


def _is_forgotten(row: Sequence[str], forget: ForgetSet) -> bool:
    user, item = row
    return user in forget.users or item in forget.items or (user, item) in forget.pairs


def _save(
    into: Path, rows: list[list[str]], manifest: dict[str, Any], extra: dict[str, Any]
) -> Artifact:
    into.mkdir(parents=True)
    weights = json.dumps(rows).encode()
    digest = hashlib.sha256(weights).hexdigest()
    content = json.dumps(manifest | {"weights": digest, "extra": extra})
    (into / WEIGHTS).write_bytes(weights)
    (into / MANIFEST).write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Artifact(
        directory=into, digest=digest, method=manifest["method"], metrics={"rows": len(rows)}
    )
