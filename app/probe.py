"""Check the health of a container's service: `python -m app.probe gateway|worker|relay`.

Each check looks at an effect of the working service (an HTTP response, a fresh heartbeat, an empty
outbox), not at the existence of a process. The module imports neither torch nor the command line,
so that a check every few seconds is cheap.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import urlopen

from app.domain.errors import LetheError
from app.settings import InvalidSettingsError, get_settings

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWork

_TIMEOUT_SECONDS: Final = 4.0
#: A relay sends wake-ups within a second. A wake-up that is this old means that the relay hangs.
_OVERDUE_SECONDS: Final = 60.0


def main() -> int:
    """Return 0 if the service is healthy; otherwise print the problem and return 1."""
    service = sys.argv[1] if len(sys.argv) > 1 else ""
    problem = f"unknown service {service!r}; use gateway, worker or relay"
    try:
        if service == "gateway":
            problem = check_gateway(get_settings().port)
        elif service in {"worker", "relay"}:
            problem = _check_database(service)
    except InvalidSettingsError as error:
        problem = str(error)
    if problem:
        sys.stderr.write(f"unhealthy: {problem}\n")
    return 1 if problem else 0


def check_gateway(port: int) -> str:
    """Request /healthz, which needs no key; return the problem, or an empty string."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_SECONDS):
            return ""
    except (URLError, OSError) as error:
        return f"/healthz: {error}"


def _check_database(service: str) -> str:
    from app.storage.engine import make_database  # noqa: PLC0415 -- not for the gateway
    from app.storage.session_limits import LEASE  # noqa: PLC0415 -- as above
    from app.storage.unit_of_work import UnitOfWorkFactory  # noqa: PLC0415 -- as above

    database = make_database(get_settings().sqlalchemy_url, LEASE)
    try:
        with UnitOfWorkFactory(database)(write=False) as uow:
            return check_worker(uow) if service == "worker" else check_relay(uow)
    except LetheError as error:
        return str(error)
    finally:
        database.dispose()


def check_worker(uow: UnitOfWork) -> str:
    """Return a problem unless a worker on this host has a current heartbeat and jobs are taken."""
    from app.services.attention import NOT_TAKEN_SECONDS, seconds_not_taken  # noqa: PLC0415 -- as above

    host = socket.gethostname()
    if not uow.workers.live_on(host):
        return f"no worker on {host} has a current heartbeat"
    waited = seconds_not_taken(uow)
    if waited > NOT_TAKEN_SECONDS:
        return f"a job has been due for {waited:.0f} s, and no worker takes it"
    return ""


def check_relay(uow: UnitOfWork) -> str:
    """Return a problem if the outbox holds unsent wake-ups that are too old."""
    overdue = uow.outbox.overdue(_OVERDUE_SECONDS)
    if not overdue:
        return ""
    return f"{overdue} wake-ups have waited in the outbox for over {_OVERDUE_SECONDS:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
