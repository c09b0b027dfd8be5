"""`python -m worker run | relay | import`: the processes of the worker side."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import LetheError
from app.logs import configure_logging
from app.parent_watch import stop_with_parent
from app.settings import Settings, get_settings
from worker.process import GRACE_SECONDS, be_nice, stop_on_signals

log = structlog.get_logger("worker")


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; return the exit status."""
    options = _parser().parse_args(arguments)
    settings = get_settings()
    configure_logging(settings.log_level)
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        if options.command == "run":
            _run(settings, stop, options)
        elif options.command == "relay":
            _relay(settings, stop)
        else:
            _import(settings, options)
    except LetheError as error:
        log.error("stopped", code=error.code, message=str(error))  # noqa: TRY400 # no trace: it may quote data
        return 1
    return 0


def _run(settings: Settings, stop: threading.Event, options: argparse.Namespace) -> None:
    """Work in this process, without a broker."""
    from worker.context import build_context  # noqa: PLC0415 # keeps torch out of the relay
    from worker.loop import run_forever  # noqa: PLC0415 # as above

    if options.exit_with_parent:
        stop_with_parent(stop.set, grace_seconds=GRACE_SECONDS)
    be_nice(settings.worker_nice)
    context = build_context(settings)
    try:
        run_forever(context, stop, until_idle=options.until_idle)
    finally:
        context.close()


def _relay(settings: Settings, stop: threading.Event) -> None:
    """Hand wake-ups to the broker; needs LETHE_BROKER_URL."""
    if settings.broker_url is None:
        raise LetheError("The relay needs LETHE_BROKER_URL; without a broker there is none to run.")
    from worker.dispatch import relay_to_broker  # noqa: PLC0415 # loads Celery

    relay_to_broker(settings, stop)


def _import(settings: Settings, options: argparse.Namespace) -> None:
    """Import a data set, telling the progress as JSON lines on standard output."""
    from app.services.secrets import load_pseudonyms  # noqa: PLC0415 # only this command needs it
    from app.storage.engine import make_database  # noqa: PLC0415 # as above
    from app.storage.unit_of_work import UnitOfWorkFactory  # noqa: PLC0415 # as above
    from worker.importer import run_import  # noqa: PLC0415 # as above

    database = make_database(settings.sqlalchemy_url)
    try:
        run_import(
            options.path,
            options.format,
            UnitOfWorkFactory(database),
            load_pseudonyms(settings),
            _emit,
        )
    finally:
        database.dispose()


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="look for jobs and work on them, without a broker")
    run.add_argument("--exit-with-parent", action="store_true", help="end when standard input ends")
    run.add_argument("--until-idle", action="store_true", help="end when nothing is left to do")
    commands.add_parser("relay", help="hand wake-ups to the broker of LETHE_BROKER_URL")
    importing = commands.add_parser("import", help="import a data set")
    importing.add_argument("path", type=Path)
    importing.add_argument("--format", default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
