"""The statements that record many users read indexes, also in tables without statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.requests import UNATTRIBUTED
from app.services.forget import ForgetCommand, request_forget
from app.services.forget_many import HashedUser, record_users
from app.settings import Settings

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(cancel_window=60.0)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.postgres
def test_tables_that_were_never_analyzed_are_not_read_whole(
    database: Database, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    user_ids = [f"p{n}" for n in range(250)]
    with uow_factory() as uow:
        uow.people.ensure_users([*user_ids, "ann"])
        request, _ = request_forget(uow, pseudonyms, SETTINGS, ForgetCommand(user_id="ann"))
    with database.write.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO suppressions (subject_hash, request_id, scope, created_at)"
                " SELECT md5(n::text) || md5('x' || n), :request_id, 'user', 0"
                " FROM generate_series(1, 60000) n"
            ),
            {"request_id": request.id},
        )
    users = [HashedUser.of(pseudonyms, user_id) for user_id in user_ids]
    counts = text("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'suppressions'")
    with uow_factory() as uow:
        uow.state.lock()
        connection = uow.state._connection
        # PostgreSQL also counts the scans of the session's transactions of the last second.
        before = connection.execute(counts).scalar_one()
        record_users(uow, pseudonyms, SETTINGS, users, UNATTRIBUTED)
        assert connection.execute(counts).scalar_one() == before
