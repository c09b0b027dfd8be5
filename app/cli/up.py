"""`lethe up`: run the whole service on this machine and restart processes that end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.api.auth import check_binding
from app.cli.failures import command
from app.cli.installation import open_installation
from app.cli.launch import gateway, listening, service_at, wait_until_up, worker
from app.cli.options import AsJson, Port
from app.cli.processes import Child, Children
from app.cli.screen import Screen
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_POLL_SECONDS: Final = 0.2
#: Delays before the restarts of a process that keeps ending; the last one repeats.
_RESTART_DELAYS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
#: A process that ran this long restarts with the first delay.
_STABLE_SECONDS: Final = 60.0


@command
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Port = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Gateway processes on the port. Default: 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the whole service: migrations, gateway and worker. Ctrl-C stops it."""
    screen = Screen.make(as_json=as_json)
    overrides = {"host": host, "port": port, "replicas": replicas}
    settings = get_settings().model_copy(
        update={name: value for name, value in overrides.items() if value is not None}
    )
    check_binding(settings)
    with listening(settings.host, settings.port) as server, Children() as children:
        with open_installation(settings) as installation, installation.uow(write=False) as uow:
            live = uow.releases.alias().live
        # All gateways share one socket, so that the others answer while one restarts.
        started = [
            children.start(gateway(server, number=number))
            for number in range(1, settings.replicas + 1)
        ]
        if settings.broker_url is None:
            started.append(children.start(worker()))
        with service_at(server, settings) as service:
            wait_until_up(service, started[0])
            address = service.url
        screen.result(
            {"address": address, "live": live, "home": str(settings.home)},
            f"Lethe is up at [bold]{address}[/bold] (data: {settings.home}). Ctrl-C stops it.",
            *([] if live else ["No release yet: run lethe import PATH, then lethe train."]),
        )
        try:
            supervise(screen, started)
        except KeyboardInterrupt:
            screen.say("Stopping …")


def supervise(screen: Screen, children: Sequence[Child]) -> None:
    """Restart children that end, until interrupted."""
    supervised = [Supervised(child, started_at=time.monotonic()) for child in children]
    while True:
        for process in supervised:
            message = process.check(time.monotonic())
            if message:
                screen.say(message)
        time.sleep(_POLL_SECONDS)


@dataclass(slots=True)
class Supervised:
    """A child that restarts when it ends, with growing delays while it keeps ending."""

    child: Child
    failures: int = 0
    started_at: float = 0.0
    restart_at: float | None = None

    def check(self, now: float) -> str:
        """Schedule or do a restart if one is due; return a message for the screen, or ""."""
        if self.restart_at is not None:
            if now >= self.restart_at:
                self.restart_at, self.started_at = None, now
                self.child.start()
            return ""
        status = self.child.exit_status()
        if status is None:
            return ""
        if now - self.started_at > _STABLE_SECONDS:
            self.failures = 0
        delay = _RESTART_DELAYS[min(self.failures, len(_RESTART_DELAYS) - 1)]
        self.failures += 1
        self.restart_at = now + delay
        return f"The {self.child.name} ended (status {status}); restarting it in {delay:.0f} s."
