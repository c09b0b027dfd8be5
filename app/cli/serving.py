"""Starting the service on this machine: the port, the gateway and the worker as processes."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.cli.client import Service
from app.cli.failures import CommandError
from app.cli.processes import Child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.settings import Settings

_START_TIMEOUT: Final = 90.0
_RESTART_DELAYS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
#: After this long up, a process that ends is started again at once.
_STEADY_SECONDS: Final = 60.0


class PortTakenError(CommandError):
    """Port {port} of {host} is taken. Stop what listens there, or give --port {other}."""


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a listening socket, so that nobody takes the port between a check and its use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host=host, port=port, other=port % 65535 + 1) from error
        raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    with made:
        yield made


def gateway(held: socket.socket, *, number: int = 1, log: Path | None = None) -> Child:
    """Return a gateway's process, which serves the socket that is held, alone or with others."""
    host, port = held.getsockname()[:2]
    return Child(
        name="gateway" if number == 1 else f"gateway {number}",
        module="app.gateway",
        arguments=["--exit-with-parent", "--fd", str(held.fileno())],
        environment={"LETHE_HOST": host, "LETHE_PORT": str(port)},
        log=log,
        pass_fds=(held.fileno(),),
    )


def worker(
    *,
    until_idle: bool = False,
    log: Path | None = None,
) -> Child:
    """Return the embedded worker's process."""
    return Child(
        name="worker",
        module="worker",
        arguments=["run", "--exit-with-parent", *(["--until-idle"] if until_idle else [])],
        log=log,
    )


def service_at(held: socket.socket, settings: Settings) -> Service:
    """Return a client of the gateway that serves this socket; any address means loopback too."""
    host, port = held.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return Service.of(
        settings, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    )


def wait_until_up(service: Service, child: Child) -> None:
    """Return once the gateway answers; raises CommandError where it ends or takes too long."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not service.is_up():
        status = child.ended()
        where = f" See {child.log}" if child.log else " Its message is above."
        if status is not None:
            raise CommandError(f"The gateway ended while starting (status {status}).{where}")
        if time.monotonic() > deadline:
            raise CommandError(f"The gateway has not come up in {_START_TIMEOUT:.0f} s.{where}")
        time.sleep(0.1)


@dataclass(slots=True)
class Supervised:
    """A child that is started again when it ends, later and later while it keeps ending."""

    child: Child
    failures: int = 0
    started_at: float = 0.0
    restart_at: float | None = None

    def check(self, now: float) -> str:
        """Do what is due, and return what there is to tell about it."""
        if self.restart_at is not None:
            if now >= self.restart_at:
                self.restart_at, self.started_at = None, now
                self.child.start()
            return ""
        status = self.child.ended()
        if status is None:
            return ""
        if now - self.started_at > _STEADY_SECONDS:
            self.failures = 0
        delay = _RESTART_DELAYS[min(self.failures, len(_RESTART_DELAYS) - 1)]
        self.failures += 1
        self.restart_at = now + delay
        return f"The {self.child.name} ended (status {status}); starting it again in {delay:.0f} s."
