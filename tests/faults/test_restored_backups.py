"""Restore the database, the artifacts, both or the whole home: Lethe repeats deletions by itself.

The ledger lies outside the home and is never restored.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import ForgottenPersonError, GoneError, RestoringError
from app.domain.jobs import CANCELLED_BY_OPERATOR, PREEMPTED, JobKind
from app.domain.renewal import RenewalReason
from app.domain.requests import Outcome, RequestStatus
from app.services.certificates import certificates_of, content_of
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.imports import import_data
from app.services.interactions import add_interactions
from app.services.jobs import cancel, start_training
from app.services.recommendation_inputs import read_inputs
from app.services.suppression import record_consent
from app.services.users import read_user
from tests.faults.conftest import PERSON, fill, make_installation
from tests.support.backups import DatabaseBackup, DirectoryBackup
from tests.support.file_learner import FileLearner, read_weights
from worker.context import build_context
from worker.loop import run_forever, run_once
from worker.lost_release import replace_lost_release
from worker.relay import Relay
from worker.stray_files import remove_strays

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.storage.engine import Database
    from tests.faults.conftest import Installation

#: When the backup is taken, and what is restored. The artifacts alone are the same at most moments.
CASES = (
    *(
        (moment, part)
        for moment in ("before", "scheduled", "unlearn", "roll_out", "shred", "completed")
        for part in ("database", "both")
    ),
    *((moment, "artifacts") for moment in ("before", "completed")),
)


@dataclass
class Backup:
    """The database and the artifacts at one moment."""

    installation: Installation
    database: DatabaseBackup
    artifacts: DirectoryBackup

    @classmethod
    def of(cls, installation: Installation, copy: Path) -> Backup:
        artifacts = Path(installation.settings.artifacts_root)
        return cls(
            installation,
            DatabaseBackup.of(installation.context.database),
            DirectoryBackup(artifacts, copy),
        )

    def restore(self, part: str) -> None:
        if part != "artifacts":
            self.database.restore(self.installation.context.database)
        if part != "database":
            self.artifacts.restore()


def start(installation: Installation) -> None:
    """Open the installation again, as a worker process does at its start.

    The lease of a job in the backup ends at once, because its worker is gone.
    """
    installation.context.close()
    installation.context = build_context(installation.settings, FileLearner)
    installation.end_leases()


def work(installation: Installation) -> None:
    """Work until no job is left, and sweep."""
    context = installation.context
    run_forever(context, threading.Event(), until_idle=True)
    relay(installation).sweep()
    run_forever(context, threading.Event(), until_idle=True)


def relay(installation: Installation) -> Relay:
    context = installation.context
    return Relay(
        context.settings,
        context.uow_factory,
        context.artifacts,
        lambda _id: None,
        pseudonyms=context.pseudonyms,
    )


def live_release(installation: Installation) -> Release:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release


def trained_users(installation: Installation) -> set[str]:
    path = live_release(installation).path
    return {user for user, _ in read_weights(installation.context.artifacts.local_path(path))}


def check_refused(installation: Installation, user_id: str = PERSON) -> None:
    """Assert that nothing is served to or about the person, and that no data is accepted."""
    context = installation.context
    with context.uow_factory(write=False) as uow:
        with pytest.raises(GoneError):
            read_inputs(uow, context.pseudonyms, user_id)
        with pytest.raises(GoneError):
            read_user(uow, context.pseudonyms, user_id)
    row = Interaction(user_id=user_id, item_id="i1", rating=4.0, timestamp=2000)
    with pytest.raises(ForgottenPersonError), context.uow_factory() as uow:
        add_interactions(uow, context.pseudonyms, [row])
    result = import_data(
        context.uow_factory, context.pseudonyms, users=(), items=(), interactions=[row]
    )
    assert result.skipped["forgotten"] == 1


def check_healed(installation: Installation, *request_ids: str) -> None:
    """Assert that the service is ready, and that no file, row or weight knows the person."""
    check_refused(installation)
    context = installation.context
    for request_id in request_ids:
        assert installation.request(request_id).status is RequestStatus.COMPLETED
        installation.certificate(request_id)
    with context.uow_factory(write=False) as uow:
        assert not uow.state.standing(()).is_restoring
        assert uow.jobs.open_job() is None
        assert uow.people.history(PERSON) == []
    live = live_release(installation)
    assert context.artifacts.published() == [live.path]
    assert installation.staged() == []
    users = trained_users(installation)
    assert users
    assert PERSON not in users


def forget_with_backup(installation: Installation, moment: str, copy: Path) -> tuple[Backup, str]:
    """Complete a deletion, and return the backup that was taken at this moment, and the request."""
    taken: list[Backup] = []

    def take(present: str) -> None:
        if present == moment and not taken:
            taken.append(Backup.of(installation, copy))

    take("before")
    request_id = installation.forget()
    take("scheduled")
    context = installation.context
    run_forever(
        context, threading.Event(), until_idle=True, on_stage=lambda stage: take(stage.value)
    )
    take("completed")
    return taken[0], request_id


@pytest.mark.parametrize(("moment", "part"), CASES)
def test_deletion_is_repeated(
    installation: Installation,
    tmp_path_factory: pytest.TempPathFactory,
    moment: str,
    part: str,
) -> None:
    copy = tmp_path_factory.mktemp("backups") / "artifacts"
    backup, request_id = forget_with_backup(installation, moment, copy)
    before = installation.certificate(request_id)
    # A later deletion, so that the entry of the completion is not the newest.
    later_id = installation.forget("u1")
    work(installation)
    backup.restore(part)
    start(installation)
    is_restored = part != "artifacts"
    with installation.context.uow_factory(write=False) as uow:
        assert uow.state.standing(()).is_restoring is is_restored
    check_refused(installation)
    work(installation)
    check_healed(installation, request_id, later_id)
    assert "u1" not in trained_users(installation)
    with installation.context.uow_factory(write=False) as uow:
        # A training that replaces lost weights adds a second certificate.
        content = content_of(certificates_of(uow, request_id)[0].envelope)
    if is_restored and moment != "completed":
        assert content["repeats"]["completed_at"] >= before["completed_at"]
        assert content["repeats"]["release"] == before["release"]
    else:
        assert "repeats" not in content


def test_whole_home_with_keys_and_without_the_ledger(
    sqlite_database: Database, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path / "home"
    installation = make_installation(
        sqlite_database, home, LETHE_LEDGER_URL=str(tmp_path / "outside")
    )
    fill(installation.context)
    installation.train()
    database = DatabaseBackup.of(installation.context.database)
    files = DirectoryBackup(home, tmp_path_factory.mktemp("backups") / "home")
    request_id = installation.forget()
    work(installation)
    files.restore()
    database.restore(installation.context.database)
    start(installation)
    check_refused(installation)
    work(installation)
    check_healed(installation, request_id)
    installation.context.close()


def test_restored_while_a_worker_runs(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    request_id = installation.forget()
    work(installation)
    stop = threading.Event()
    context = installation.context
    worker = threading.Thread(target=run_forever, args=(context, stop))
    worker.start()
    try:
        backup.restore("both")
        for _ in range(600):
            with context.uow_factory(write=False) as uow:
                request = uow.requests.find(request_id)
            if request is not None and request.status is RequestStatus.COMPLETED:
                break
            stop.wait(0.05)
    finally:
        stop.set()
        worker.join()
    work(installation)
    check_healed(installation, request_id)


def test_killed_worker_in_the_repeated_deletion(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    request_id = installation.forget()
    work(installation)
    backup.restore("both")
    installation.kill(installation.start_and_stop_at("audit"))
    installation.finish_elsewhere()
    check_healed(installation, request_id)


def test_cancelled_stays_cancelled_and_the_person_stays(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    request_id = installation.forget()
    with installation.context.uow_factory() as uow:
        cancel_forget(uow, request_id)
    backup.restore("both")
    start(installation)
    work(installation)
    assert installation.request(request_id).status is RequestStatus.CANCELLED
    assert PERSON in trained_users(installation)
    with installation.context.uow_factory(write=False) as uow:
        assert read_user(uow, installation.context.pseudonyms, PERSON).interactions


def test_consent_stays_after_the_repeated_deletion(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    request_id = installation.forget()
    work(installation)
    with installation.context.uow_factory() as uow:
        record_consent(uow, installation.context.pseudonyms, PERSON)
    backup.restore("both")
    start(installation)
    check_refused(installation)
    work(installation)
    assert installation.request(request_id).status is RequestStatus.COMPLETED
    assert PERSON not in trained_users(installation)
    row = Interaction(user_id=PERSON, item_id="i1", rating=4.0, timestamp=2000)
    with installation.context.uow_factory() as uow:
        add_interactions(uow, installation.context.pseudonyms, [row])


@pytest.mark.parametrize("is_completed", [True, False])
def test_user_who_was_suppressed_without_data_stays_suppressed(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, is_completed: bool
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    command = ForgetCommand(user_id="newcomer", suppress_unknown=True)
    context = installation.context
    with context.uow_factory() as uow:
        request, _ = request_forget(uow, context.pseudonyms, installation.settings, command)
    if is_completed:
        work(installation)
    backup.restore("both")
    start(installation)
    check_refused(installation, "newcomer")
    work(installation)
    check_refused(installation, "newcomer")
    assert installation.request(request.id).status is RequestStatus.COMPLETED


@pytest.mark.parametrize("is_restored", [True, False], ids=["older", "lost"])
def test_lost_weights_are_trained_again(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, is_restored: bool
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    request_id = installation.forget()
    work(installation)
    lost = live_release(installation)
    if is_restored:
        backup.restore("artifacts")
    else:
        installation.context.artifacts.remove(lost.path)
    start(installation)
    work(installation)
    check_healed(installation, request_id)
    live = live_release(installation)
    assert live.id != lost.id
    with installation.context.uow_factory(write=False) as uow:
        job = uow.jobs.get(live.job_id)
    assert job.kind is JobKind.RENEW
    assert job.settings["reason"] == "restored"


def test_person_stored_after_the_backup_needs_no_training(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    row = Interaction(user_id="new", item_id="i1", rating=4.0, timestamp=2000)
    with installation.context.uow_factory() as uow:
        add_interactions(uow, installation.context.pseudonyms, [row])
    request_id = installation.forget("new")
    work(installation)
    backup.restore("both")
    start(installation)
    check_refused(installation, "new")
    work(installation)
    request = installation.request(request_id)
    assert (request.status, request.outcome) == (
        RequestStatus.COMPLETED,
        Outcome.NOT_APPLICABLE,
    )
    assert live_release(installation).method == "carry_over"


def test_no_other_training_starts_while_restoring(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with installation.context.uow_factory() as uow:
        training = start_training(uow)
    backup = Backup.of(installation, tmp_path_factory.mktemp("backups") / "before")
    work(installation)
    installation.forget()
    work(installation)
    backup.restore("database")
    start(installation)
    with installation.context.uow_factory() as uow:
        assert uow.jobs.get(training.id).status == "cancelled"
        with pytest.raises(RestoringError):
            start_training(uow)


def test_files_of_another_installation_stay(installation: Installation) -> None:
    """An installation without deletions, started by mistake with the store of another one."""
    context = installation.context
    stranger = Path(installation.settings.artifacts_root) / "releases" / "rel_1.job_1.1"
    stranger.mkdir(parents=True)
    (stranger / "weights.json").write_text("[]")
    remove_strays(context.uow_factory, context.artifacts)
    assert stranger.exists()
    installation.forget("u1")
    work(installation)
    assert not stranger.exists()


def test_publication_in_progress_is_not_removed(installation: Installation) -> None:
    installation.forget("u2")
    work(installation)
    installation.forget()
    suspended = installation.start_and_stop_at("roll_out")
    context = installation.context
    published = context.artifacts.published()
    remove_strays(context.uow_factory, context.artifacts)
    replace_lost_release(context.uow_factory, context.artifacts, context.settings)
    assert context.artifacts.published() == published
    installation.kill(suspended)


def test_failed_renewal_of_lost_weights_waits(installation: Installation) -> None:
    context = installation.context
    context.artifacts.remove(live_release(installation).path)
    settings = context.settings.model_copy(update={"retry_delay": 3600.0})
    replace_lost_release(context.uow_factory, context.artifacts, settings)
    broken = replace(context, learner=BrokenLearner(settings), settings=settings)
    assert run_once(broken)
    replace_lost_release(context.uow_factory, context.artifacts, settings)
    with context.uow_factory(write=False) as uow:
        assert uow.jobs.open_job() is None


@pytest.mark.parametrize(
    ("error", "is_replaced"), [(PREEMPTED, True), (CANCELLED_BY_OPERATOR, False)]
)
def test_only_an_operator_delays_the_renewal_of_lost_weights(
    installation: Installation, error: str, is_replaced: bool
) -> None:
    context = installation.context
    context.artifacts.remove(live_release(installation).path)
    replace_lost_release(context.uow_factory, context.artifacts, context.settings)
    with context.uow_factory() as uow:
        job = uow.jobs.open_job()
        assert job is not None
        assert job.renewal_reason == RenewalReason.RESTORED
        cancel(uow, job.id, error)
    replace_lost_release(context.uow_factory, context.artifacts, context.settings)
    with context.uow_factory(write=False) as uow:
        assert (uow.jobs.open_job() is not None) is is_replaced


class BrokenLearner(FileLearner):
    """Fails at every training."""

    def train(self, *_inputs: object) -> object:  # type: ignore[override]
        raise ValueError


def test_ledger_names_no_person(installation: Installation) -> None:
    installation.forget()
    work(installation)
    entries = list(Path(installation.settings.ledger_root).rglob("entries/**/*.json"))
    assert entries
    for path in entries:
        assert PERSON not in path.read_text()
        assert json.loads(path.read_text())["body"]["records"]
