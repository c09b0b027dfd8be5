"""A gateway in this process, without HTTP."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from app.gateway import freeze_startup_objects
from app.main import make_gateway
from app.storage.engine import make_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.api.state import Gateway
    from app.settings import Settings

_WAIT: Final = 120.0


@contextmanager
def gateway_in_process(settings: Settings) -> Iterator[Gateway]:
    """Run a gateway until the block ends; raises TimeoutError where it does not get ready."""
    database = make_database(settings.sqlalchemy_url)
    made = make_gateway(settings, database)
    freeze_startup_objects()
    made.replica.start()
    deadline = time.monotonic() + _WAIT
    try:
        while made.replica.reasons_not_ready():
            if time.monotonic() > deadline:
                raise TimeoutError("; ".join(made.replica.reasons_not_ready()))
            time.sleep(0.05)
        yield made
    finally:
        made.recommender.close()
        made.replica.stop()
        database.dispose()
