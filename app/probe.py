"""`python -m app.probe gateway | worker | relay`: the health checks of the containers.

Each looks at what its service leaves behind when it works, not at whether a process exists. They
load neither torch nor the command line, so that a check every few seconds costs little.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import urlopen

from app.domain.errors import LetheError
from app.settings import get_settings

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWork

_TIMEOUT_SECONDS: Final = 4.0
#: A relay sends a wake-up within a second; one that is owed for longer means that it is stuck.
_OVERDUE_SECONDS: Final = 60.0


def main() -> int:
    """Return 0 when the service named on the command line is healthy, else say why and return 1."""
    service = sys.argv[1] if len(sys.argv) > 1 else ""
    problem = f"there is no service {service!r}"
    if service == "gateway":
        problem = check_gateway(int(os.environ.get("LETHE_PORT") or get_settings().port))
    elif service in {"worker", "relay"}:
        problem = _check_database(service)
    if problem:
        sys.stderr.write(f"unhealthy: {problem}\n")
    return 1 if problem else 0


def check_gateway(port: int) -> str:
    """Ask for /healthz, which needs no key; return what is wrong, or nothing."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_SECONDS):
            return ""
    except (URLError, OSError) as error:
        return f"/healthz: {error}"


def _check_database(service: str) -> str:
    from app.storage.engine import make_database  # noqa: PLC0415 -- the gateway's check needs none
    from app.storage.unit_of_work import UnitOfWorkFactory  # noqa: PLC0415 -- as above

    database = make_database(get_settings().sqlalchemy_url)
    try:
        with UnitOfWorkFactory(database)(write=False) as uow:
            return check_worker(uow) if service == "worker" else check_relay(uow)
    except LetheError as error:
        return str(error)
    finally:
        database.dispose()


def check_worker(uow: UnitOfWork) -> str:
    """Look for the row that a worker on this host keeps fresh."""
    host = socket.gethostname()
    return "" if uow.workers.live_on(host) else f"no worker on {host} has renewed its row"


def check_relay(uow: UnitOfWork) -> str:
    """Look for wake-ups that are owed for too long."""
    overdue = uow.outbox.overdue(_OVERDUE_SECONDS)
    return f"{overdue} wake-ups are owed for over {_OVERDUE_SECONDS:.0f} s" if overdue else ""


if __name__ == "__main__":
    sys.exit(main())
