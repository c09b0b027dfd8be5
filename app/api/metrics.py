"""Prometheus metrics of one gateway: request counters, and the state read at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from app.domain.errors import DatabaseUnavailableError
from app.domain.requests import OPEN_STATUSES
from app.services.attention import read_attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from app.api.state import Gateway
    from app.services.attention import Attention
    from app.services.renewal_outlook import RenewalOutlook

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Metrics in a registry per application, so that a process may run several applications."""

    def __init__(self, gateway: Gateway) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "lethe_http_requests",
            "Requests by route template and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "lethe_http_request_seconds",
            "Time from request to end of response, without waits that the client asked for.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_StateCollector(gateway))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        # A caller can send any word as the method, and every label value uses memory.
        known = method if method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class _StateCollector:
    """Reads the replica and, if the database answers, deletion requests and the open job."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def describe(self) -> list[Metric]:
        """Return no metrics, so that the registration does not query the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        gateway = self._gateway
        yield CounterMetricFamily(
            "lethe_swaps", "Swaps to another release.", value=gateway.replica.swaps
        )
        yield GaugeMetricFamily(
            "lethe_replica_lease_valid",
            "1 while this replica may answer.",
            value=gateway.replica.answer_lease.valid,
        )
        yield GaugeMetricFamily(
            "lethe_replica_ready",
            "1 while this replica is ready for traffic.",
            value=not gateway.replica.reasons_not_ready(),
        )
        yield GaugeMetricFamily(
            "lethe_candidate_people",
            "Users in the candidate statistics.",
            value=len(gateway.first_stage),
        )
        yield from self._from_database()

    def _from_database(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("lethe_database_up", "1 while the database answers.")
        try:
            with self._gateway.uow(write=False) as uow:
                counts = uow.requests.count_open()
                job = uow.jobs.open_job()
                version = uow.state.data_version()
                owed = uow.scrubs.open_ones()
                now = uow.state.now()
                attention = read_attention(uow, self._gateway.settings)
        except DatabaseUnavailableError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("lethe_data_version", "Version of the data.", value=version)
        yield GaugeMetricFamily(
            "lethe_scrubs_owed",
            "Erasures that could not be carried out yet, and their certificates.",
            value=len(owed),
        )
        yield GaugeMetricFamily(
            "lethe_scrubs_owed_oldest_seconds",
            "Age of the oldest owed erasure; 0 if none is owed.",
            value=max(((now - scrub.created_at).total_seconds() for scrub in owed), default=0.0),
        )
        requests = GaugeMetricFamily(
            "lethe_open_deletion_requests", "Open deletion requests.", labels=["status"]
        )
        for status in sorted(OPEN_STATUSES):
            requests.add_metric([status.value], counts.get(status, 0))
        yield requests
        jobs = GaugeMetricFamily(
            "lethe_job_progress", "Progress of the open job.", labels=["kind", "status", "stage"]
        )
        if job is not None:
            jobs.add_metric([job.kind.value, job.status.value, job.stage.value], job.progress)
        yield jobs
        yield from _attention(attention)
        yield from _renewals(attention.renewal)


def _attention(attention: Attention) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "lethe_workers", "Workers with a current heartbeat.", value=attention.live_workers
    )
    yield GaugeMetricFamily(
        "lethe_jobs_waiting_without_worker",
        "Jobs, or deletions due for a job, that no worker runs.",
        value=attention.without_worker,
    )
    yield GaugeMetricFamily(
        "lethe_jobs_stuck",
        "Jobs whose last try failed after their release went live.",
        value=attention.stuck,
    )
    yield GaugeMetricFamily(
        "lethe_job_failed_tries",
        "Failed tries of the open job, after which the job is repeated.",
        value=attention.failed_tries,
    )
    yield GaugeMetricFamily(
        "lethe_replicas_with_problem",
        "Live replicas that do not follow the rollout.",
        value=attention.with_problem,
    )


def _renewals(renewal: RenewalOutlook) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "lethe_approximate_deletions",
        "Completed deletions that no exact training has made exact yet.",
        value=renewal.approximate,
    )
    seconds_left = GaugeMetricFamily(
        "lethe_exact_deadline_seconds",
        "Seconds until the earliest deadline of an approximate deletion; negative if missed.",
    )
    if renewal.seconds_left is not None:
        seconds_left.add_metric([], renewal.seconds_left)
    yield seconds_left
    started = CounterMetricFamily("lethe_renewals_started", "Renewals that were started.")
    started.add_metric([], sum(renewal.totals.values()))
    yield started
    ended = CounterMetricFamily(
        "lethe_renewals_ended", "Renewals that have ended.", labels=["result"]
    )
    for result in ("succeeded", "failed", "cancelled", "preempted"):
        ended.add_metric([result], renewal.totals.get(result, 0))
    yield ended
