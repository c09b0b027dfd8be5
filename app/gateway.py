"""`python -m app.gateway`: one gateway process, as `lethe up` and the containers run it."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Final

import uvicorn

from app.api.auth import check_binding
from app.domain.errors import LetheError
from app.connection_limits import bounded
from app.logs import configure_logging
from app.main import create_app
from app.settings import get_settings

if TYPE_CHECKING:
    from app.settings import Settings

#: A gateway whose parent has died is cut off after this long, in seconds.
_GRACE: Final = 8.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.gateway")
    parser.add_argument("--fd", type=int, help="a bound socket that the parent hands over")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when stdin ends")
    options = parser.parse_args(arguments)
    try:
        settings = get_settings()
        configure_logging(settings.log_level)
        check_binding(settings)
        server = _server(settings)
    except LetheError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.exit_with_parent:
        _stop_with_parent(server)
    freeze_startup_objects()
    # Requests under way are answered before it ends.
    server.run([socket.socket(fileno=options.fd)] if options.fd is not None else None)
    return 0 if server.started else 1


def freeze_startup_objects() -> None:
    """Have collections pass over what there is by now: half a million objects of libraries.

    Every answer waits for a collection, which took .2 s with them and takes .01 s without.
    """
    gc.collect()
    gc.freeze()


def _server(settings: Settings) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            lifespan="on",
            log_config=None,
            # The application's own log line carries the route's template, never a person's id.
            access_log=False,
            server_header=False,
            http=bounded(settings),
            ws="none",
            timeout_graceful_shutdown=int(settings.drain_timeout),
        )
    )


def _stop_with_parent(server: uvicorn.Server) -> None:
    """Stop once standard input ends, as it does when the parent process is gone."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        server.should_exit = True
        cut_off = threading.Timer(_GRACE, os._exit, args=(1,))
        cut_off.daemon = True
        cut_off.start()

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
