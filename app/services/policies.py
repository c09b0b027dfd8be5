"""What the use cases need of the settings, each its own few numbers. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPolicy:
    """What a deletion request is promised."""

    cancel_window: float
    due_days: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(cancel_window=settings.cancel_window, due_days=settings.due_days)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """When a batch closes and what its job does."""

    size: int
    seconds: float
    method: str
    retry_delay: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            size=settings.batch_size,
            seconds=settings.batch_seconds,
            method=settings.method,
            retry_delay=settings.retry_delay,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPolicy:
    """How long a job is leased, and how often it and its requests may fail."""

    lease_seconds: float
    attempts: int
    request_failures: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            lease_seconds=settings.job_lease,
            attempts=settings.job_attempts,
            request_failures=settings.request_failures,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPolicy:
    """For how long a replica may answer, and how long a roll-out waits for it."""

    ttl: float
    margin: float
    rollout_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            ttl=settings.replica_ttl,
            margin=settings.replica_margin,
            rollout_timeout=settings.rollout_timeout,
        )
