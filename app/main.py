"""Create the gateway's FastAPI application and wire its components."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI

from app.api import openapi, problems
from app.api.attention import AttentionReader
from app.api.auth import AccessGuard
from app.api.edge import Edge
from app.api.following import Following
from app.api.metrics import Metrics
from app.api.middleware import BodyLimit, LedgerRetry, Observer
from app.api.query_parameters import check_query_parameters
from app.api.routes import ROUTERS, ROUTES
from app.api.state import Gateway
from app.services.restore import reconciler
from app.services.secrets import load_pseudonyms
from app.serving.recommend.service import RecommendService
from app.serving.replica.release_loader import ReleaseLoader, make_scorer_backend
from app.serving.replica.replica import Replica
from app.serving.retrieval.first_stage import FirstStage
from app.settings import Settings, get_settings
from app.storage.artifacts import ArtifactStore
from app.storage.engine import make_database
from app.storage.ledger import open_ledger
from app.storage.session_limits import GATEWAY
from app.storage.unit_of_work import UnitOfWorkFactory
from app.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.storage.engine import Database


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application; its threads run from startup to shutdown."""
    settings = settings or get_settings()
    database = make_database(settings.sqlalchemy_url, GATEWAY)
    gateway = make_gateway(settings, database)
    metrics = Metrics(gateway)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        gateway.replica.start()
        try:
            yield
        finally:
            gateway.following.stop()
            # The recommender stops before the replica ends its lease: no answer may follow.
            await asyncio.to_thread(_stop, gateway, database)

    app = FastAPI(
        title="Lethe",
        summary="Unlearning as a service for recommenders that are language models.",
        version=VERSION,
        lifespan=lifespan,
        # A proxy that strips or adds a prefix would make the target of a redirect wrong.
        redirect_slashes=False,
        servers=[{"url": settings.root_path or "/"}],
        dependencies=[Depends(check_query_parameters)],
        generate_unique_id_function=openapi.operation_id,
        openapi_url=None,  # `app.api.routes.web` has the route, so that it follows the same rules.
        docs_url=None,  # The page would load scripts from other hosts.
        redoc_url=None,
    )
    app.state.gateway = gateway
    app.state.metrics = metrics
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    # The last one added is the outermost.
    app.add_middleware(LedgerRetry)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(AccessGuard, settings=settings)
    app.add_middleware(Observer, metrics=metrics)
    app.add_middleware(Edge, settings=settings, routes=ROUTES)
    return app


def make_gateway(settings: Settings, database: Database) -> Gateway:
    """Create the components of a gateway without starting threads."""
    pseudonyms = load_pseudonyms(settings)
    uow = UnitOfWorkFactory(
        database, open_ledger(settings.ledger_root, pseudonyms), reconciler(pseudonyms, settings)
    )
    first_stage = FirstStage(uow, pseudonyms)
    artifacts = ArtifactStore(settings.artifacts_root, settings.home / "cache")
    loader = ReleaseLoader(artifacts, make_scorer_backend(settings, artifacts))
    replica = Replica(settings, uow, loader, first_stage, pseudonyms)
    return Gateway(
        settings=settings,
        uow=uow,
        pseudonyms=pseudonyms,
        first_stage=first_stage,
        replica=replica,
        recommender=RecommendService(settings, uow, pseudonyms, replica, first_stage),
        attention=AttentionReader(settings, uow),
        following=Following(settings, uow),
    )


def _stop(gateway: Gateway, database: Database) -> None:
    gateway.recommender.close()
    gateway.replica.stop()
    database.dispose()
