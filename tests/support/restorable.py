"""An installation without a release, to back up, restore and check with `lethe restore-check`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.cli import restore_check
from app.cli.installation import open_installation
from app.domain.catalog import Interaction
from app.domain.jobs import JobStatus, Stage
from app.domain.requests import Outcome, RequestStatus
from app.services import jobs
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.forget import ForgetCommand, request_forget
from app.services.secrets import load_signer
from app.settings import get_settings
from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.backups import DatabaseBackup
from tests.support.command_line import lethe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from app.storage.unit_of_work import UnitOfWork

PEOPLE = ("ann", "bob", "cid", "dan")
ITEMS = ("i1", "i2", "i3")


@dataclass
class Restorable:
    """An installation without a release, whose database and files tests put back."""

    home: Path
    certificates: Path

    def run(self, action: Callable[[UnitOfWork, Any], Any]) -> Any:
        with open_installation(get_settings()) as opened, opened.uow() as uow:
            return action(uow, opened)

    def forget(self, user_id: str, *items: str, item_id: str | None = None) -> str:
        def action(uow: UnitOfWork, opened: Any) -> str:
            command = ForgetCommand.of(user_id if item_id is None else None, items, item_id)
            return request_forget(uow, opened.pseudonyms, opened.settings, command)[0].id

        return str(self.run(action))

    def complete(self) -> None:
        """Complete the open requests as a worker does before the first release."""
        settings = get_settings()
        with open_installation(settings) as opened:
            with opened.uow() as uow:
                assert jobs.close_batch(uow, settings) is not None
            with opened.uow() as uow:
                claimed = jobs.claim(uow, "t", settings)
            assert claimed is not None
            with opened.uow() as uow:
                jobs.advance(uow, claimed[1], status=JobStatus.PUBLISHING)
                jobs.advance(uow, claimed[1], status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
                finish(uow, claimed[1], load_signer(settings), Evidence(outcome=Outcome.PASSED))

    def save(self, request_id: str, name: str | None = None) -> Path:
        """Save the newest certificate of the request as a file."""
        certificates = self.envelopes(request_id)
        path = self.certificates / (name or f"{request_id}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(certificates[-1]))
        return path

    def envelopes(self, request_id: str) -> list[dict[str, Any]]:
        def action(uow: UnitOfWork, _opened: Any) -> list[dict[str, Any]]:
            return [each.envelope for each in uow.certificates.of_request(request_id)]

        return list(self.run(action))

    def back_up(self) -> DatabaseBackup:
        with open_installation(get_settings()) as opened:
            return DatabaseBackup.of(opened.uow.database)

    def put_back(self, backup: DatabaseBackup, user_id: str | None = None) -> None:
        """Restore without opening the installation, which would apply the ledger; add a user."""
        database = make_database(get_settings().sqlalchemy_url)
        backup.restore(database)
        with UnitOfWorkFactory(database)() as uow:
            uow.people.ensure_users([] if user_id is None else [user_id])
        database.dispose()

    def status_of(self, request_id: str) -> RequestStatus:
        return RequestStatus(self.run(lambda uow, _: uow.requests.get(request_id).status))

    @property
    def ledger(self) -> Path:
        return self.home.with_name(f"{self.home.name}-ledger")


def filled(installation: Restorable, monkeypatch: pytest.MonkeyPatch) -> Restorable:
    monkeypatch.setattr(restore_check, "_PAUSE", 0.0)
    monkeypatch.setenv("LETHE_CANCEL_WINDOW", "0")
    monkeypatch.setenv("LETHE_BATCH_SECONDS", "0")
    get_settings.cache_clear()

    def fill(uow: UnitOfWork, _opened: Any) -> None:
        uow.people.upsert_items([(item, item, {}) for item in ITEMS])
        uow.people.ensure_users(PEOPLE)
        uow.people.upsert_interactions(
            [
                Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=9)
                for user_id in PEOPLE
                for item_id in ITEMS
            ],
            uow.state.bump("interactions"),
        )

    installation.run(fill)
    return installation


def check(*arguments: str) -> tuple[int, dict[str, Any]]:
    ended = lethe("restore-check", "--json", *arguments)
    # Without the configuration of a process, log lines are on standard output too.
    return ended.exit_code, json.loads(ended.stdout[ended.stdout.index("{\n") :])


def codes(answer: dict[str, Any]) -> dict[str, Any]:
    return {finding["code"]: finding for finding in answer["findings"]}
