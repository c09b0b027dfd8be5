"""`lethe demo`: prepare the data directory, port and processes, then run the story."""

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
from app.cli.launch import PortTakenError, gateway, listening, service_at, wait_until_up, worker
from app.cli.options import AsJson, Port
from app.cli.processes import ROOT, Children
from app.cli.screen import Screen
from app.cli.up import supervise
from app.services.pseudonyms import Pseudonyms
from app.settings import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

    from app.cli.processes import Child

SHIPPED_DATA: Final = ROOT / "data" / "ml-latest-small"
_DEFAULT_PORT: Final = 8000
_HOST: Final = "127.0.0.1"
#: Settings of another installation, which a separate data directory must not inherit. The hash key
#: is not among them: `demo_settings` derives a key from it.
INSTALLATION_VARIABLES: Final = (
    "LETHE_DATABASE_URL",
    "LETHE_BROKER_URL",
    "LETHE_ARTIFACTS_URL",
    "LETHE_LEDGER_URL",
    "LETHE_API_KEYS",
    "LETHE_SIGNING_KEY",
    "LETHE_ENVIRONMENT",
    "LETHE_HOST",
    "LETHE_PORT",
)


@command
def demo(
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Data set. Default: data/ml-latest-small.")
    ] = SHIPPED_DATA,
    port: Port = None,
    exit_at_end: Annotated[
        bool, typer.Option("--exit", help="Stop at the end instead of leaving the service up.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a real user end to end, explain each step, and leave the service running."""
    screen = Screen.make(as_json=as_json)
    if not data.exists():
        raise BadInputError(f"{data} does not exist. Check --data.")
    data = data.absolute()
    with fresh_home(demo_path()) as home, _listen(screen, port) as server:
        settings = demo_settings(home, server)
        with open_installation(settings) as installation, Children() as children:
            scene = Scene(screen, installation, log=home / "logs" / "worker.log")
            story = Story(scene, data)
            story.prepare()
            started = [gateway(server, log=home / "logs" / "gateway.log"), worker(log=scene.log)]
            for child in started:
                children.start(child)
            with service_at(server, settings) as service:
                screen.say(f"\n[bold]3[/bold]  Gateway and worker start: {service.url}")
                wait_until_up(service, started[0])
                document = story.forget(service)
                screen.document(document)
                if not exit_at_end:
                    _keep_running(screen, started, service.url)


def _keep_running(screen: Screen, started: list[Child], address: str) -> None:
    screen.say(f"\nLethe stays up at [bold]{address}[/bold]. Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        supervise(screen, started)
    screen.say("Stopping …")


@contextlib.contextmanager
def _listen(screen: Screen, port: int | None) -> Iterator[socket]:
    """Listen on `port`; without it on port 8000, or any free port if 8000 is taken."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(listening(_HOST, _DEFAULT_PORT if port is None else port))
        except PortTakenError:
            if port is not None:
                raise
            server = stack.enter_context(listening(_HOST, 0))
            screen.say(
                f"Port {_DEFAULT_PORT} is taken, so the demo uses {server.getsockname()[1]}."
            )
        yield server


def demo_settings(home: Path, server: socket) -> Settings:
    """Return the demo's settings and set them in the environment, which child processes read.

    The hash key draws the holdout users, whom no model trains on. With the same LETHE_HASH_KEY,
    LETHE_SEED and data, the models and audits of two demos are therefore the same.
    """
    for name in INSTALLATION_VARIABLES:
        os.environ.pop(name, None)
    os.environ["LETHE_HOME"] = str(home)
    os.environ["LETHE_CANCEL_WINDOW"] = os.environ["LETHE_BATCH_SECONDS"] = "0"
    os.environ["LETHE_POLL_SECONDS"] = "0.1"
    installation_key = read_settings().hash_key
    if installation_key is not None:
        # The demo's files have ids beside their keyed hashes. With the key itself, they would show
        # which person of the other installation has which keyed hash.
        key = Pseudonyms(installation_key.get_secret_value().encode()).opaque("demo", "hash-key")
        os.environ["LETHE_HASH_KEY"] = key
    return read_settings(host=_HOST, port=server.getsockname()[1])
