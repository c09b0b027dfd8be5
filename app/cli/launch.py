"""Launch the service on this machine: the listening socket, gateway and worker processes."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from typing import TYPE_CHECKING, Final

from app.cli.client import Service
from app.cli.failures import CommandError
from app.cli.processes import Child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.settings import Settings

_START_TIMEOUT: Final = 90.0


class PortTakenError(CommandError):
    """Port {port} of {host} is taken. Stop its process, or give another --port, like {other}."""


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a listening socket, so that no other process can take the port meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host=host, port=port, other=port % 65535 + 1) from error
        raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    with server:
        yield server


def gateway(server: socket.socket, *, number: int = 1, log: Path | None = None) -> Child:
    """Return a gateway process for a listening socket, which several gateways may share."""
    host, port = server.getsockname()[:2]
    return Child(
        name="gateway" if number == 1 else f"gateway {number}",
        module="app.gateway",
        arguments=["--exit-with-parent", "--fd", str(server.fileno())],
        environment={"LETHE_HOST": host, "LETHE_PORT": str(port)},
        log=log,
        pass_fds=(server.fileno(),),
    )


def worker(*, until_idle: bool = False, log: Path | None = None) -> Child:
    """Return a worker process; with `until_idle` the worker ends when no job is due."""
    return Child(
        name="worker",
        module="worker",
        arguments=["run", "--exit-with-parent", *(["--until-idle"] if until_idle else [])],
        log=log,
    )


def service_at(server: socket.socket, settings: Settings) -> Service:
    """Return a client for the gateway on this socket; a wildcard address is called by loopback."""
    host, port = server.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return Service.of(
        settings, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    )


def wait_until_up(service: Service, child: Child) -> None:
    """Wait until the gateway answers; raises CommandError if it ends or takes too long."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not service.is_up():
        status = child.exit_status()
        log_hint = f" See {child.log}" if child.log else " Its message is above."
        if status is not None:
            raise CommandError(f"The gateway ended while starting (status {status}).{log_hint}")
        if time.monotonic() > deadline:
            raise CommandError(
                f"The gateway did not start within {_START_TIMEOUT:.0f} s.{log_hint}"
            )
        time.sleep(0.1)
