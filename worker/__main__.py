"""`python -m worker run | relay | import`: the worker processes other than Celery's."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from app.domain.errors import InvalidInputError, LetheError
from app.logs import configure_logging
from app.parent_watch import stop_with_parent
from app.private_files import protect_home, use_private_umask
from app.settings import Settings, settings_or_exit
from app.storage.engine import make_database
from app.storage.session_limits import WORKER
from app.storage.unit_of_work import UnitOfWorkFactory
from worker.process import GRACE_SECONDS, be_nice, stop_on_signals

if TYPE_CHECKING:
    from threading import Event

# The commands import their modules themselves: torch, Celery and the readers of data sets are slow
# to load, and each is needed by one command only.

log = structlog.get_logger("worker")


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    options = _parser().parse_args(arguments)
    settings = settings_or_exit()
    configure_logging(settings.log_level)
    use_private_umask()
    protect_home(settings)
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
        log.error("stopped", code=error.code, message=str(error))  # noqa: TRY400 # a traceback may quote data
        return 1
    return 0


def _run(settings: Settings, stop: Event, options: argparse.Namespace) -> None:
    """Look for jobs and work on them in this process."""
    from worker.context import build_context  # noqa: PLC0415
    from worker.loop import run_forever  # noqa: PLC0415

    if options.exit_with_parent:
        stop_with_parent(stop.set, grace_seconds=GRACE_SECONDS)
    be_nice(settings.worker_nice)
    context = build_context(settings)
    try:
        run_forever(context, stop, until_idle=options.until_idle)
    finally:
        context.close()


def _relay(settings: Settings, stop: Event) -> None:
    """Send wake-up messages to the broker."""
    if settings.broker_url is None:
        raise LetheError("The relay sends messages to a broker. Set LETHE_BROKER_URL.")
    from app.services.restore import reconciler  # noqa: PLC0415
    from app.services.secrets import load_pseudonyms  # noqa: PLC0415
    from app.storage.ledger import open_ledger  # noqa: PLC0415
    from worker.celery_app import TASK_NAME, make_celery  # noqa: PLC0415
    from worker.context import open_artifacts  # noqa: PLC0415
    from worker.relay import Relay  # noqa: PLC0415

    database = make_database(settings.sqlalchemy_url, WORKER)
    pseudonyms = load_pseudonyms(settings)
    factory = UnitOfWorkFactory(
        database, open_ledger(settings.ledger_root, pseudonyms), reconciler(pseudonyms, settings)
    )
    celery = make_celery(settings)

    def send(entity_id: str) -> None:
        # Without retries a refused connection raises at once, and the next turn sends again.
        celery.send_task(TASK_NAME, args=[entity_id], retry=False)

    try:
        Relay(settings, factory, open_artifacts(settings), send, pseudonyms=pseudonyms).run(stop)
    finally:
        celery.close()
        database.dispose()


def _import(settings: Settings, options: argparse.Namespace) -> None:
    """Import a data set and write the progress as JSON lines to standard output."""
    from app.services.restore import open_data, reconciler  # noqa: PLC0415
    from app.services.secrets import load_pseudonyms  # noqa: PLC0415
    from app.storage.ledger import open_ledger  # noqa: PLC0415
    from models.datasets.errors import DataSetError  # noqa: PLC0415
    from models.datasets.options import ReadOptions  # noqa: PLC0415
    from worker.importer import run_import  # noqa: PLC0415

    try:
        read_options = ReadOptions.parse(**json.loads(options.options))
    except DataSetError as error:
        raise InvalidInputError(str(error)) from error
    database = make_database(settings.sqlalchemy_url, WORKER)
    pseudonyms = load_pseudonyms(settings)
    ledger = open_ledger(settings.ledger_root, pseudonyms)
    factory = UnitOfWorkFactory(database, ledger, reconciler(pseudonyms, settings))
    try:
        with factory() as uow:
            open_data(uow, ledger, pseudonyms, settings)
        run_import(options.path, options.format, factory, pseudonyms, _emit, read_options)
    finally:
        database.dispose()


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="work on jobs, without a broker")
    run.add_argument(
        "--exit-with-parent", action="store_true", help="stop at the end of standard input"
    )
    run.add_argument("--until-idle", action="store_true", help="stop when no job is left")
    commands.add_parser("relay", help="send wake-up messages to the broker at LETHE_BROKER_URL")
    import_ = commands.add_parser("import", help="import a data set")
    import_.add_argument("path", type=Path, help="a file or directory")
    import_.add_argument("--format", default="auto", help="the data format (default: auto)")
    import_.add_argument(
        "--options",
        default="{}",
        help="the options of `lethe import` about the data set, as JSON",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
