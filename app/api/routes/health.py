"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response, status
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.dependencies import TheGateway
from app.api.responses import problems
from app.api.schemas import HealthAnswer

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> HealthAnswer:
    """Say that the process answers, whatever the state of the rest."""
    return HealthAnswer(status="ok")


@router.get("/readyz", responses={status.HTTP_503_SERVICE_UNAVAILABLE: {"model": HealthAnswer}})
async def readyz(gateway: TheGateway, response: Response) -> HealthAnswer:
    """Say whether this replica should get traffic, and if not, why."""
    reasons = gateway.replica.reasons_not_ready()
    if not reasons:
        return HealthAnswer(status="ok")
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return HealthAnswer(status="not ready", reasons=reasons)


@router.get("/metrics", responses=problems(), response_class=Response)
def metrics(gateway: TheGateway) -> Response:
    """Return the metrics in Prometheus' format."""
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
