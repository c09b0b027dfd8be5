"""The topics of the outbox: what a wake-up is about. A wake-up carries an id and nothing else."""

from __future__ import annotations

from enum import StrEnum


class Topic(StrEnum):
    """`REQUEST`: look whether a batch can be closed. `JOB`: look whether a job can be claimed."""

    REQUEST = "request"
    JOB = "job"
