"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response, status
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.dependencies import TheGateway, TheMetrics
from app.api.responses import problems
from app.api.schemas.common import HealthAnswer

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> HealthAnswer:
    """Report that the process answers, independent of database and replica."""
    return HealthAnswer(status="ok")


@router.get("/readyz", responses={status.HTTP_503_SERVICE_UNAVAILABLE: {"model": HealthAnswer}})
async def readyz(gateway: TheGateway, response: Response) -> HealthAnswer:
    """Report whether this replica is ready for traffic, and the reasons if not."""
    reasons = gateway.replica.reasons_not_ready()
    if not reasons:
        return HealthAnswer(status="ok")
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return HealthAnswer(status="not ready", reasons=reasons)


@router.get("/metrics", responses=problems(), response_class=Response)
def metrics(metrics: TheMetrics) -> Response:
    """Return the metrics in the Prometheus text format."""
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
