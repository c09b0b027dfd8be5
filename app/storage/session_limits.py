"""How long a session of PostgreSQL may wait for locks, run a statement, or hold a transaction.

Without limits, one process that is stopped or partitioned while it holds the row of `state` blocks
every change of data. SQLite has one limit, the wait for its only write lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

#: Keepalive probes without an answer after which a connection counts as lost.
_PROBES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """The limits of one kind of process, in seconds. None: no limit."""

    #: The longest wait for a lock of another transaction.
    lock: float | None = None
    statement: float | None = None
    #: The longest time between two statements of a transaction. Then the server ends the session
    #: and releases its locks.
    idle: float | None = None
    #: The time after which a connection to a machine that does not respond counts as lost.
    tcp: float = 20.0

    def session_options(self) -> str:
        """Return the server's settings for the session, as options of the connection string."""
        settings = {
            "lock_timeout": _milliseconds(self.lock),
            "statement_timeout": _milliseconds(self.statement),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle),
            "tcp_user_timeout": _milliseconds(self.tcp),
            **{f"tcp_{name}": value for name, value in self._keepalives().items()},
        }
        return " ".join(f"-c {name}={value}" for name, value in settings.items())

    def connection_arguments(self) -> dict[str, Any]:
        """Return the client's settings of the TCP connection; a local socket ignores them."""
        return {
            "keepalives": 1,
            "tcp_user_timeout": _milliseconds(self.tcp),
            **self._keepalives(),
        }

    def _keepalives(self) -> dict[str, int]:
        interval = max(1, round(self.tcp / (2 * _PROBES)))
        idle = max(1, round(self.tcp / 2))
        return {
            "keepalives_idle": idle,
            "keepalives_interval": interval,
            "keepalives_count": _PROBES,
        }


def _milliseconds(seconds: float | None) -> int:
    """Return the number for PostgreSQL, for which 0 means no limit."""
    return 0 if seconds is None else max(1, round(1000 * seconds))


#: Requests of the API. `idle` is above the 10 seconds that a write of the ledger may take while the
#: transaction holds the data lock.
GATEWAY: Final = SessionLimits(lock=5.0, statement=60.0, idle=15.0, tcp=10.0)
#: Workers, relays and imports, which may wait longer and read more.
WORKER: Final = SessionLimits(lock=30.0, statement=600.0, idle=15.0)
#: Commands that an operator runs, and migrations.
COMMAND: Final = SessionLimits(lock=60.0, idle=60.0)
#: Renewals of leases, three per lease. No renewal waits for the data lock.
LEASE: Final = SessionLimits(lock=3.0, statement=3.0, idle=3.0, tcp=4.0)
