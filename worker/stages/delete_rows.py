"""Delete the rows that the job's requests name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.jobs import JobKind, Stage
from app.services import completion
from app.services import jobs as job_lifecycle
from app.services.row_deletion import delete_in_chunks

if TYPE_CHECKING:
    from worker.job_run import JobRun


def delete_rows(run: JobRun) -> None:
    """Delete the rows of a deletion job and add their number to the job's metrics."""
    if run.job.kind is not JobKind.FORGET:
        return
    run.begin(Stage.DELETE_ROWS)
    for _number in delete_in_chunks(run.context.uow_factory, run.lease):
        run.check()
    with run.writing() as uow:
        deleted = completion.delete_rows(uow, run.lease)
        # A repetition deletes no rows; the metric keeps the number of the first time.
        total = uow.jobs.get(run.job.id).metrics.get("rows_deleted", 0) + deleted
        job_lifecycle.advance(uow, run.lease, metrics={"rows_deleted": total})
    run.job = run.job.evolve(metrics={**run.job.metrics, "rows_deleted": total})
