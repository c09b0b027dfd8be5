"""The fence of jobs: what a worker writes beside its job is checked against its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from app.domain.errors import LeaseLostError
from app.storage.tables import JobRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from app.domain.jobs import Lease


def holds(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that make an update of the job one of this lease's."""
    return (
        JobRow.id == lease.job_id,
        JobRow.epoch == lease.epoch,
        JobRow.lease_owner == lease.owner,
    )


def check_lease(connection: Connection, lease: Lease) -> None:
    """Raise LeaseLostError unless the lease is the job's last; keep it so until the commit."""
    query = select(JobRow.id).where(*holds(lease)).with_for_update()
    if connection.execute(query).first() is None:
        raise LeaseLostError(job_id=lease.job_id, epoch=lease.epoch)
