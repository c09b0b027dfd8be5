"""`lethe demo`: the directory, the port, the processes, and then the story."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.demo.home import demo_path, fresh_home
from app.cli.demo.story import Scene, Story
from app.cli.failures import BadInputError, command
from app.cli.installation import open_installation
from app.cli.options import AsJson, Port
from app.cli.processes import ROOT, Children
from app.cli.screen import Screen
from app.cli.serving import PortTakenError, gateway, listening, service_at, wait_until_up, worker
from app.cli.up import supervise
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

    from app.cli.processes import Child

SHIPPED: Final = ROOT / "data" / "ml-latest-small"
_PORT: Final = 8000
_HOST: Final = "127.0.0.1"
#: What a home of its own must not take over from the installation that the shell is set up for.
OWN: Final = (
    "LETHE_DATABASE_URL",
    "LETHE_BROKER_URL",
    "LETHE_ARTIFACTS_URL",
    "LETHE_API_KEYS",
    "LETHE_HASH_KEY",
    "LETHE_SIGNING_KEY",
    "LETHE_ENVIRONMENT",
    "LETHE_HOST",
    "LETHE_PORT",
)


@command
def demo(
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set. [default: data/ml-latest-small]")
    ] = SHIPPED,
    port: Port = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop at the end instead of leaving the service up.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a real person, end to end, told step by step; then leave the service up."""
    screen = Screen.make(as_json=as_json)
    if not data.exists():
        raise BadInputError(f"{data} does not exist. Check --data.")
    data = data.absolute()
    with fresh_home(demo_path()) as home, _port(screen, port) as held:
        settings = _settings(home, held)
        with open_installation(settings) as installation, Children() as children:
            scene = Scene(screen, installation, log=home / "logs" / "worker.log")
            story = Story(scene, data)
            story.prepare()
            started = [gateway(held, log=home / "logs" / "gateway.log"), worker(log=scene.log)]
            for child in started:
                children.start(child)
            with service_at(held, settings) as service:
                screen.say(f"\n[bold]3[/bold]  Gateway and worker start: {service.url}")
                wait_until_up(service, started[0])
                document = story.forget(service)
                screen.document(document)
                if not leave:
                    _leave_up(screen, started, service.url)


def _leave_up(screen: Screen, started: list[Child], address: str) -> None:
    screen.say(f"\nLethe stays up at [bold]{address}[/bold]. Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        supervise(screen, started)
    screen.say("Stopping …")


@contextlib.contextmanager
def _port(screen: Screen, chosen: int | None) -> Iterator[socket]:
    """Hold the chosen port, or 8000, or where that is taken any free one."""
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(listening(_HOST, _PORT if chosen is None else chosen))
        except PortTakenError:
            if chosen is not None:
                raise
            held = stack.enter_context(listening(_HOST, 0))
            screen.say(f"Port {_PORT} is taken, so the demo uses {held.getsockname()[1]}.")
        yield held


def _settings(home: Path, held: socket) -> Settings:
    """Return the demo's settings, which the processes that it starts inherit.

    Nothing of another installation may leak in: the environment is what children read.
    """
    for name in OWN:
        os.environ.pop(name, None)
    os.environ["LETHE_HOME"] = str(home)
    os.environ["LETHE_CANCEL_WINDOW"] = os.environ["LETHE_BATCH_SECONDS"] = "0"
    os.environ["LETHE_POLL_SECONDS"] = "0.1"
    return Settings(host=_HOST, port=held.getsockname()[1])
