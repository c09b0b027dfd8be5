"""Topics of wake-up messages. A message has a topic and an id."""

from __future__ import annotations

from enum import StrEnum


class Topic(StrEnum):
    """`request`: a batch may be ready to close. `job`: a job may be ready to claim."""

    REQUEST = "request"
    JOB = "job"
