"""Durations of forget jobs and of exact trainings, from measured jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from app.domain.jobs import JobKind, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: The stages before a release is published. Until then a renewal can be interrupted.
_COMPUTED: Final = frozenset(
    {"claim", Stage.SNAPSHOT, Stage.TRAIN, Stage.UNLEARN, Stage.MERGE, Stage.AUDIT}
)
#: Stages whose time grows with the requests of a batch, also before the first release.
_PER_REQUEST: Final = (Stage.DELETE_ROWS, Stage.CERTIFY)


class CostsError(ValueError):
    """The file of measured costs cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of jobs. `sizes` and `batches` are the points of a piecewise linear function."""

    sizes: tuple[float, ...]
    #: Seconds of a whole forget job, from its claim to the completion of its requests.
    batches: tuple[float, ...]
    #: Seconds from the snapshot to the audit, one value for each measured training.
    trainings: tuple[float, ...]
    #: Seconds to publish and roll out a release, and to shred the previous releases.
    roll_out: float
    shred: float
    #: Seconds of one more certificate in the stage `certify`.
    certificate: float
    #: The least seconds of one more request beyond the largest measured batch.
    request: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `renewal-costs` wrote; raises CostsError."""
        try:
            return cls.of_jobs(json.loads(path.read_text(encoding="utf-8"))["jobs"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CostsError(f"{path} has no measured costs ({error!r}).") from error

    @classmethod
    def of_jobs(cls, jobs: Sequence[Mapping[str, Any]]) -> Self:
        """Average the measured jobs of each size; raises CostsError without usable jobs."""
        trainings = [_seconds(job) for job in jobs if job["kind"] != JobKind.FORGET]
        by_size: dict[int, list[dict[str, float]]] = {}
        for job in jobs:
            if job["kind"] == JobKind.FORGET and len(job["attempts"]) == 1:
                by_size.setdefault(int(job["size"]), []).append(_seconds(job))
        if not trainings or not by_size:
            raise CostsError("Neither trainings nor forget jobs without escalation were measured.")
        sizes = sorted(by_size)
        return cls(
            sizes=tuple(map(float, sizes)),
            batches=tuple(fmean(sum(job.values()) for job in by_size[size]) for size in sizes),
            trainings=tuple(
                sum(seconds for stage, seconds in stages.items() if stage in _COMPUTED)
                for stages in trainings
            ),
            roll_out=fmean(stages[Stage.PUBLISH] + stages[Stage.ROLL_OUT] for stages in trainings),
            shred=fmean(stages[Stage.SHRED] for own in by_size.values() for stages in own),
            certificate=_slope(jobs, (Stage.CERTIFY,)),
            request=_slope(jobs, _PER_REQUEST),
        )

    def with_training(self, seconds: float) -> Self:
        """Scale the measured trainings to a mean of `seconds`."""
        mean = fmean(self.trainings)
        return replace(self, trainings=tuple(seconds * value / mean for value in self.trainings))

    def with_batch(self, seconds: float) -> Self:
        """Replace the forget jobs by jobs that take `seconds`, whatever their size."""
        return replace(self, sizes=(1.0,), batches=(seconds,), request=0.0)

    def batch_seconds(self, size: int) -> float:
        """Return the seconds of a forget job with `size` requests.

        The function continues beyond the largest measured size with the slope of the last piece,
        or with the seconds of deleting rows and certifying, if these are more.
        """
        sizes, batches = self.sizes, self.batches
        if size <= sizes[-1]:
            return float(np.interp(size, sizes, batches))
        slope = self.request
        if len(sizes) > 1:
            slope = max(slope, (batches[-1] - batches[-2]) / (sizes[-1] - sizes[-2]))
        return batches[-1] + slope * (size - sizes[-1])

    def deletions_per_day(self, size: int) -> float:
        """Return the deletions that batches of `size`, one after the other, complete in a day."""
        return size / self.batch_seconds(size) * 86_400.0


def _seconds(job: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage of a job on a machine without other load.

    Building weights is computation of one thread, so its processor seconds count. Other stages wait
    for replicas and for files.
    """
    processor = job.get("stage_cpu_seconds", {})
    return {
        stage: float(processor.get(stage, seconds) if stage in _COMPUTED else seconds)
        for stage, seconds in job["stage_seconds"].items()
    }


def _slope(jobs: Sequence[Mapping[str, Any]], stages: tuple[Stage, ...]) -> float:
    """Return the seconds of one more request in these stages; raises CostsError.

    Deletions before the first release, which change no weights, have the least noise.
    """
    points = sorted(
        (int(job["size"]), sum(float(job["stage_cpu_seconds"][stage]) for stage in stages))
        for job in jobs
        if job["kind"] == JobKind.FORGET and not job["attempts"]
    )
    if not points or points[0][0] == points[-1][0]:
        raise CostsError("No deletions of two sizes before the first release were measured.")
    (smallest, least), (largest, most) = points[0], points[-1]
    return max(most - least, 0.0) / (largest - smallest)
