"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response, status
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.dependencies import TheGateway, TheMetrics
from app.api.responses import problems
from app.api.schemas.common import HealthAnswer
from app.api.schemas.health import ReadinessAnswer

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> HealthAnswer:
    """Report that the process answers, independent of database and replica."""
    return HealthAnswer(status="ok")


@router.get("/readyz", responses={status.HTTP_503_SERVICE_UNAVAILABLE: {"model": ReadinessAnswer}})
async def readyz(gateway: TheGateway, response: Response) -> ReadinessAnswer:
    """Report whether this replica is ready for traffic, and the reasons if not.

    The workers and warnings of the installation never change the status.
    """
    attention = await gateway.attention.latest()
    reasons = gateway.replica.reasons_not_ready()
    if reasons:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ReadinessAnswer.of(reasons, attention)


@router.get("/metrics", responses=problems(), response_class=Response)
def metrics(metrics: TheMetrics) -> Response:
    """Return the metrics in the Prometheus text format."""
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
