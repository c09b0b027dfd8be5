"""Run a gateway's server in a thread, for tests over real sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.gateway import make_server
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings


@contextmanager
def gateway_server(settings: Settings) -> Iterator[tuple[str, int]]:
    """Run the server; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    server = make_server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), "the gateway does not start")
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
