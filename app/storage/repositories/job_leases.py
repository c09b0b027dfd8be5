"""Lease checks for writes of a worker to its job and to the job's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from app.domain.errors import LeaseLostError
from app.storage.tables import JobRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from app.domain.jobs import Lease


def holds(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that restrict an update to the job under this lease."""
    return (
        JobRow.id == lease.job_id,
        JobRow.epoch == lease.epoch,
        JobRow.lease_owner == lease.owner,
    )


def check_lease(connection: Connection, lease: Lease) -> None:
    """Lock the job until the commit. Raise LeaseLostError if the lease is not its latest one."""
    query = select(JobRow.id).where(*holds(lease)).with_for_update()
    if connection.execute(query).first() is None:
        raise LeaseLostError(job_id=lease.job_id, epoch=lease.epoch)
