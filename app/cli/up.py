"""`lethe up`: the whole service on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.api.auth import check_binding
from app.cli.failures import command
from app.cli.installation import open_installation
from app.cli.options import AsJson, Port
from app.cli.processes import Child, Children
from app.cli.screen import Screen
from app.cli.serving import Supervised, gateway, listening, service_at, wait_until_up, worker
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK_EVERY: Final = 0.2


@command
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Port = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Gateway processes on the port. [default: 1]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the whole service: migrations, gateway and worker. Ctrl-C stops it."""
    screen = Screen.make(as_json=as_json)
    given = {"host": host, "port": port, "replicas": replicas}
    settings = get_settings().model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    check_binding(settings)
    with listening(settings.host, settings.port) as held, Children() as children:
        with open_installation(settings) as installation, installation.uow(write=False) as uow:
            live = uow.releases.alias().live
        # All accept from the one socket, so that while one is away the others answer.
        started = [
            children.start(gateway(held, number=number))
            for number in range(1, settings.replicas + 1)
        ]
        if settings.broker_url is None:
            started.append(children.start(worker()))
        with service_at(held, settings) as service:
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
    """Keep the children running until interrupted."""
    watched = [Supervised(child, started_at=time.monotonic()) for child in children]
    while True:
        for one in watched:
            told = one.check(time.monotonic())
            if told:
                screen.say(told)
        time.sleep(_LOOK_EVERY)
