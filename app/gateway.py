"""Run one gateway process: `python -m app.gateway`, used by `lethe up` and the containers."""

from __future__ import annotations

import argparse
import contextlib
import gc
import socket
import sys
from typing import TYPE_CHECKING, Final, cast

import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from app.api.auth import check_binding
from app.connection_limits import limited_protocol
from app.domain.errors import LetheError, UnavailableError
from app.logs import configure_logging
from app.main import create_app
from app.parent_watch import stop_with_parent
from app.private_files import protect_home, use_private_umask
from app.services.restore import open_data
from app.settings import settings_or_exit

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.api.state import Gateway
    from app.settings import Settings

#: Seconds from the end of the parent process until this process exits at the latest.
_GRACE_SECONDS: Final = 8.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal arrives; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.gateway")
    parser.add_argument("--fd", type=int, help="file descriptor of a bound socket")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop at the end of standard input"
    )
    options = parser.parse_args(arguments)
    use_private_umask()
    settings = settings_or_exit()
    try:
        configure_logging(settings.log_level)
        protect_home(settings)
        check_binding(settings)
        server = make_server(settings)
        check_identity(cast("FastAPI", server.config.app).state.gateway)
    except LetheError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.exit_with_parent:

        def stop() -> None:
            server.should_exit = True

        stop_with_parent(stop, grace_seconds=_GRACE_SECONDS)
    freeze_startup_objects()
    server.run([socket.socket(fileno=options.fd)] if options.fd is not None else None)
    return 0 if server.started else 1


def check_identity(gateway: Gateway) -> None:
    """Refuse to start with another hash key, id rule or ledger than the database has.

    If the database or the ledger does not respond, or the database is not migrated yet, the replica
    checks later.
    """
    with contextlib.suppress(UnavailableError, SQLAlchemyError), gateway.uow() as uow:
        open_data(uow, gateway.uow.ledger, gateway.pseudonyms, gateway.settings)


def freeze_startup_objects() -> None:
    """Exclude all present objects from garbage collection.

    After startup these are half a million objects of libraries. Every answer waits during a full
    collection, which takes 0.2 s with these objects and 0.01 s without.
    """
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """uvicorn's server, at whose shutdown clients stop to wait for deletions."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the clients that wait, and then shut down as uvicorn does."""
        cast("FastAPI", self.config.app).state.gateway.following.stop()
        await super().shutdown(sockets)


def make_server(settings: Settings) -> uvicorn.Server:
    """Return the gateway's server; at shutdown the server answers the requests in progress."""
    return _Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            lifespan="on",
            log_config=None,
            # A URL contains user ids. The application logs the route's template instead.
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=list(settings.trusted_proxies),
            http=limited_protocol(settings),
            ws="none",
            timeout_graceful_shutdown=int(settings.drain_timeout),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
