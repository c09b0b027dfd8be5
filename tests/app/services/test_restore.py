"""Reconcile databases in older states with the ledger, on both databases."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import User
from app.domain.errors import ForgottenPersonError, LedgerDamagedError, RestoringError
from app.domain.id_rules import IdRule
from app.domain.jobs import JobStatus, Stage
from app.domain.ledger import LedgerEvent, LedgerHead
from app.domain.requests import Assurance, Attribution, RequestReason, RequestStatus, Scope, Subject
from app.services.certificates import certificates_of, content_of, envelope_digest
from app.services.forget import ForgetCommand, cancel_forget, hold_forget, request_forget
from app.services.interactions import add_interactions
from app.services.jobs import start_training
from app.services.ledger import record_exact
from app.services.pseudonyms import Pseudonyms
from app.services.restore import Reconciled, open_data, reconcile
from app.services.suppression import record_consent
from app.storage.ledger import open_ledger
from app.storage.tables import Base
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.app.services.test_forget import SETTINGS, complete, rating, run_concurrently
from tests.support.backups import DatabaseBackup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.services.signatures import Signer
    from app.storage.ledger import Ledger

    Forget = Callable[..., ForgetRequest]
    StartJob = Callable[[], Lease]

_R = RequestStatus


def ledger_of(factory: UnitOfWorkFactory) -> Ledger:
    assert factory.ledger is not None
    return factory.ledger


def backup(factory: UnitOfWorkFactory) -> Callable[[], None]:
    """Take a backup of the database, and return the function that restores the backup."""
    taken = DatabaseBackup.of(factory.database)
    return lambda: taken.restore(factory.database)


def heal(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> Reconciled:
    with factory() as uow:
        return open_data(uow, ledger_of(factory), pseudonyms, SETTINGS)


def reconcile_and_die(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    """Reconcile without the commit, as a process that is killed before it."""

    def die() -> None:
        with factory() as uow:
            reconcile(uow, ledger_of(factory), pseudonyms, SETTINGS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()


def read(factory: UnitOfWorkFactory, request: ForgetRequest) -> ForgetRequest:
    with factory(write=False) as uow:
        return uow.requests.get(request.id)


def events(factory: UnitOfWorkFactory) -> list[str]:
    entries = ledger_of(factory).entries(LedgerHead())
    return [record.event.value for entry in entries for record in entry.records]


def is_suppressed(factory: UnitOfWorkFactory, subject_hash: str) -> bool:
    with factory(write=False) as uow:
        return bool(uow.suppressions.matching([subject_hash]))


@pytest.fixture
def opened(catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> UnitOfWorkFactory:
    heal(catalog, pseudonyms)
    return catalog


def test_database_and_ledger_agree(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    assert heal(opened, pseudonyms) == Reconciled()
    assert events(opened) == ["accepted"]


def test_unknown_request_is_suppressed_again_with_its_ids_and_times(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    restore = backup(opened)
    lost = forget("ann")
    restore()
    assert not is_suppressed(opened, pseudonyms.user("ann"))
    assert heal(opened, pseudonyms).inserted == 1
    request = read(opened, lost)
    assert request == lost.evolve(recovered={})
    assert is_suppressed(opened, pseudonyms.user("ann"))
    with opened(write=False) as uow:
        assert not uow.state.restoring()


def test_restored_request_has_its_reason_but_none_of_the_callers_texts(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    restore = backup(opened)
    attribution = Attribution(
        requested_by="agent", reason=RequestReason.CONSENT_WITHDRAWN, reference="DSR-1"
    )
    with opened() as uow:
        command = ForgetCommand(user_id="ann", attribution=attribution)
        lost, _ = request_forget(uow, pseudonyms, SETTINGS, command)
    restore()
    assert heal(opened, pseudonyms).inserted == 1
    request = read(opened, lost)
    assert request == lost.evolve(recovered={}, requested_by=None, reference=None)


@pytest.mark.parametrize("state", ["unknown", "scheduled", "on hold", "batched", "certify"])
def test_completed_deletion_is_repeated_from_every_state(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
    state: str,
) -> None:
    restores = {"unknown": backup(opened)}
    lost = forget("ann")
    restores["scheduled"] = backup(opened)
    with opened() as uow:
        hold_forget(uow, lost.id)
    restores["on hold"] = backup(opened)
    restores["scheduled"]()
    lease = start_job()
    restores["batched"] = backup(opened)
    complete(opened, lease, signer)
    (certificate,) = certificates(opened, lost)
    if state == "certify":
        restores["batched"]()
        with opened() as uow:
            uow.jobs.update(lease, status=JobStatus.ROLLING_OUT, stage=Stage.CERTIFY)
        restores["certify"] = backup(opened)
    restores[state]()
    reconciled = heal(opened, pseudonyms)
    request = read(opened, lost)
    if state == "certify":
        # The last entry is of the open job: its transaction may not have committed.
        assert (reconciled.repeated, reconciled.void) == (0, 1)
        assert events(opened) == ["accepted", "completed", "void"]
        assert request.job_id == lease.job_id
        return
    if state == "batched":
        assert (request.restored, request.job_id) == (True, lease.job_id)
        assert reconciled.repeated == 1
        return
    assert reconciled.repeated == 1
    assert request.status is _R.BATCHED
    assert request.restored
    assert request.subject == Subject(scope=Scope.USER, user_id="ann")
    with opened() as uow:
        assert uow.state.standing(()).is_restoring
        with pytest.raises(RestoringError):
            start_training(uow)
    complete(opened, start_job(), signer)
    (repeated,) = certificates(opened, lost)
    assert content_of(repeated)["repeats"]["sha256"] == envelope_digest(certificate)
    with opened(write=False) as uow:
        assert not uow.state.standing(()).is_restoring
        assert uow.people.user("ann") is None
    assert heal(opened, pseudonyms) == Reconciled()


def certificates(factory: UnitOfWorkFactory, request: ForgetRequest) -> list[dict[str, object]]:
    with factory(write=False) as uow:
        return [dict(each.envelope) for each in certificates_of(uow, request.id)]


def test_request_in_a_job_of_an_older_timeline_is_repeated_in_that_job(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    lost = forget("ann")
    lease = start_job()
    restore = backup(opened)
    complete(opened, lease, signer)
    forget("bob")
    restore()
    assert heal(opened, pseudonyms).repeated == 1
    request = read(opened, lost)
    assert request.restored
    assert request.job_id == lease.job_id


def test_dead_request_is_repeated(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    lost = forget("ann")
    with opened() as uow:
        uow.requests.change_status(lost, [_R.SCHEDULED], status=_R.BATCHED)
        uow.requests.change_status(
            uow.requests.get(lost.id), [_R.BATCHED], status=_R.DEAD, failures=3
        )
    restore = backup(opened)
    with opened() as uow:
        uow.requests.change_status(uow.requests.get(lost.id), [_R.DEAD], status=_R.BATCHED)
    complete(opened, start_job(), signer)
    restore()
    heal(opened, pseudonyms)
    request = read(opened, lost)
    assert (request.status, request.failures) == (_R.BATCHED, 0)


def test_cancelled_request_stays_cancelled(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    restore_unknown = backup(opened)
    lost = forget("ann")
    restore_scheduled = backup(opened)
    with opened() as uow:
        cancel_forget(uow, lost.id)
    for restore in (restore_unknown, restore_scheduled):
        restore()
        assert heal(opened, pseudonyms).cancelled == 1
        assert read(opened, lost).status is _R.CANCELLED
        assert read(opened, lost).subject is None
        assert not is_suppressed(opened, pseudonyms.user("ann"))
    assert events(opened) == ["accepted", "cancelled"]


def test_consent_stays_and_erased_rows_are_erased_before(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    restore_before = backup(opened)
    lost = forget("ann")
    complete(opened, start_job(), signer)
    restore_completed = backup(opened)
    with opened() as uow:
        record_consent(uow, pseudonyms, "ann")
    restore_consented = backup(opened)
    restore_completed()
    assert heal(opened, pseudonyms).consented == 1
    assert not is_suppressed(opened, pseudonyms.user("ann"))
    restore_before()
    heal(opened, pseudonyms)
    # The rows from before the deletion are stored again, so the person is suppressed until then.
    assert is_suppressed(opened, pseudonyms.user("ann"))
    with pytest.raises(ForgottenPersonError), opened() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])
    complete(opened, start_job(), signer)
    assert read(opened, lost).status is _R.COMPLETED
    assert not is_suppressed(opened, pseudonyms.user("ann"))
    with opened() as uow:
        assert uow.people.user("ann") is None
        add_interactions(uow, pseudonyms, [rating("ann")])
    restore_consented()
    heal(opened, pseudonyms)
    with opened() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])


def test_data_of_a_person_who_consented_and_returned_stays(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    forget("ann")
    complete(opened, start_job(), signer)
    with opened() as uow:
        record_consent(uow, pseudonyms, "ann")
    with opened() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])
    restore = backup(opened)
    lost = forget("bob")
    restore()
    heal(opened, pseudonyms)
    with opened(write=False) as uow:
        assert [row.item_id for row in uow.people.history("ann")] == ["i1"]
    assert read(opened, lost).subject == Subject(scope=Scope.USER, user_id="bob")


def test_second_deletion_after_consent_is_repeated_too(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    restore = backup(opened)
    first = forget("ann")
    complete(opened, start_job(), signer)
    with opened() as uow:
        record_consent(uow, pseudonyms, "ann")
    with opened() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])
    second = forget("ann")
    complete(opened, start_job(), signer)
    restore()
    assert heal(opened, pseudonyms).repeated == 2
    complete(opened, start_job(), signer)
    assert {read(opened, lost).status for lost in (first, second)} == {_R.COMPLETED}
    # Consent lifted the first deletion only.
    assert is_suppressed(opened, pseudonyms.user("ann"))
    with opened(write=False) as uow:
        assert uow.people.user("ann") is None


def test_pairs_and_items_are_found_by_their_hashes(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    restore = backup(opened)
    pairs, item = forget("ann", "i1", "i2"), forget(item_id="i3")
    complete(opened, start_job(), signer)
    restore()
    assert heal(opened, pseudonyms).not_stored == 0
    assert read(opened, pairs).subject == pairs.subject
    assert read(opened, item).subject == item.subject
    complete(opened, start_job(), signer)
    with opened(write=False) as uow:
        assert [row.item_id for row in uow.people.history("ann")] == ["i0"]
        assert uow.people.known_items(["i3"]) == set()


def test_person_who_is_not_stored_is_suppressed_and_completed(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    restore = backup(opened)
    with opened() as uow:
        add_interactions(uow, pseudonyms, [rating("new")])
    lost, pairs = forget("new"), forget("new", "i1")
    complete(opened, start_job(), signer)
    restore()
    assert heal(opened, pseudonyms).not_stored == 1
    with pytest.raises(ForgottenPersonError), opened() as uow:
        add_interactions(uow, pseudonyms, [rating("new")])
    complete(opened, start_job(), signer)
    assert read(opened, lost).status is _R.COMPLETED
    assert pairs == lost


def test_fresh_database_gets_tombstones_consents_and_cancelled_requests(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    completed = forget("ann")
    complete(opened, start_job(), signer)
    returned = forget("bob")
    complete(opened, start_job(), signer)
    with opened() as uow:
        record_consent(uow, pseudonyms, "bob")
    cancelled = forget("cid")
    with opened() as uow:
        cancel_forget(uow, cancelled.id)
    empty(opened)
    heal(opened, pseudonyms)
    complete(opened, start_job(), signer)
    assert read(opened, completed).status is _R.COMPLETED
    assert read(opened, cancelled).status is _R.CANCELLED
    assert is_suppressed(opened, pseudonyms.user("ann"))
    assert not is_suppressed(opened, pseudonyms.user("bob"))
    assert read(opened, returned).status is _R.COMPLETED
    with opened(write=False) as uow:
        assert uow.people.counts() == {"users": 0, "items": 0, "interactions": 0}


def empty(factory: UnitOfWorkFactory) -> None:
    """Replace the database by an empty one."""
    with factory.database.write.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
        connection.exec_driver_sql("INSERT INTO state (id, data_version) VALUES (1, 0)")
        connection.exec_driver_sql("INSERT INTO aliases (name, generation) VALUES ('live', 0)")


def test_first_start_writes_the_present_requests(
    catalog: UnitOfWorkFactory,
    tmp_path: Path,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    """An installation from before the ledger has requests, and the ledger is empty."""
    completed = forget("ann")
    complete(catalog, start_job(), signer)
    with catalog() as uow:
        record_consent(uow, pseudonyms, "ann")
    cancelled = forget("cid")
    with catalog() as uow:
        cancel_forget(uow, cancelled.id)
    pairs = forget("bob", "i1")
    upgraded = UnitOfWorkFactory(catalog.database, open_ledger(str(tmp_path / "new"), pseudonyms))
    with upgraded.database.write.begin() as connection:
        connection.exec_driver_sql("UPDATE state SET ledger_number = NULL, ledger_digest = NULL")
    assert heal(upgraded, pseudonyms).first_entries == 1
    assert events(upgraded) == [
        *("accepted", "completed", "exact", "consented"),
        *("accepted", "cancelled"),
        "accepted",
    ]
    assert heal(upgraded, pseudonyms) == Reconciled()
    empty(upgraded)
    heal(upgraded, pseudonyms)
    assert read(upgraded, completed).status is _R.BATCHED
    assert read(upgraded, cancelled).status is _R.CANCELLED
    assert read(upgraded, pairs).subject_hashes == pairs.subject_hashes


def test_first_entries_of_a_start_that_was_killed_are_not_repeated(
    catalog: UnitOfWorkFactory, tmp_path: Path, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    first, second = forget("ann"), forget("bob")
    upgraded = UnitOfWorkFactory(catalog.database, open_ledger(str(tmp_path / "new"), pseudonyms))
    with upgraded.database.write.begin() as connection:
        connection.exec_driver_sql("UPDATE state SET ledger_number = NULL, ledger_digest = NULL")
    reconcile_and_die(upgraded, pseudonyms)
    assert events(upgraded) == ["accepted", "accepted"]
    assert heal(upgraded, pseudonyms).first_entries == 0
    assert events(upgraded) == ["accepted", "accepted"]
    assert {read(upgraded, each).status for each in (first, second)} == {_R.SCHEDULED}
    assert heal(upgraded, pseudonyms) == Reconciled()


@pytest.mark.parametrize("state", ["killed start", "older backup"])
def test_consent_before_the_ledger_lifts_no_later_deletion(
    catalog: UnitOfWorkFactory,
    tmp_path: Path,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
    state: str,
) -> None:
    """The first entries may be applied to a database that has what followed the consent."""
    forget("ann")
    complete(catalog, start_job(), signer)
    with catalog() as uow:
        record_consent(uow, pseudonyms, "ann")
    with catalog() as uow:
        add_interactions(uow, pseudonyms, [rating("ann")])
    second = forget("ann")
    complete(catalog, start_job(), signer)
    upgraded = UnitOfWorkFactory(catalog.database, open_ledger(str(tmp_path / "new"), pseudonyms))
    with upgraded.database.write.begin() as connection:
        connection.exec_driver_sql("UPDATE state SET ledger_number = NULL, ledger_digest = NULL")
    restore = backup(upgraded)
    if state == "killed start":
        reconcile_and_die(upgraded, pseudonyms)
    else:
        heal(upgraded, pseudonyms)
        restore()
    heal(upgraded, pseudonyms)
    assert read(upgraded, second).status is _R.COMPLETED
    assert is_suppressed(upgraded, pseudonyms.user("ann"))


def test_entry_without_a_commit_is_applied(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    """A process that dies between the entry and the commit leaves an entry ahead of the head."""
    restore = backup(opened)
    lost = forget("ann")
    restore()
    heal(opened, pseudonyms)
    assert read(opened, lost).status is _R.SCHEDULED
    later = forget("bob")
    assert events(opened) == ["accepted", "accepted"]
    assert read(opened, later).status is _R.SCHEDULED


def test_cancellation_without_a_commit_is_void_after_the_batch_was_closed(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    lost = forget("ann")
    restore = backup(opened)
    with opened() as uow:
        cancel_forget(uow, lost.id)
    restore()
    lease = start_job()
    assert heal(opened, pseudonyms).void == 1
    complete(opened, lease, signer)
    restore()
    assert heal(opened, pseudonyms).repeated == 1  # The void record counts at every later restore.
    assert read(opened, lost).status is _R.BATCHED


def test_processes_that_reconcile_at_once_apply_each_entry_once(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    restore = backup(opened)
    forget("ann")
    forget("bob")
    restore()
    results = run_concurrently(*[lambda: heal(opened, pseudonyms)] * 4)
    inserted = Counter(getattr(result, "inserted", result) for result in results)
    assert inserted == {2: 1, 0: 3}


def test_kill_while_reconciling_leaves_the_database_as_it_was(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    restore = backup(opened)
    lost = forget("ann")
    restore()
    reconcile_and_die(opened, pseudonyms)
    with opened(write=False) as uow:
        assert uow.requests.find(lost.id) is None
    assert heal(opened, pseudonyms).inserted == 1


def test_data_versions_continue_above_the_ledger(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    restore = backup(opened)
    forget("ann")
    forget("bob")
    with opened(write=False) as uow:
        lost = uow.state.data_version()
    restore()
    heal(opened, pseudonyms)
    with opened(write=False) as uow:
        assert uow.state.data_version() > lost
        assert [change.kind for change in uow.state.changes_since(lost)] == ["forget"]


def test_head_without_its_entry_is_damage(
    opened: UnitOfWorkFactory, tmp_path: Path, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    for path in (tmp_path / "ledger").rglob("*.json"):
        path.unlink()
    with pytest.raises(LedgerDamagedError, match="entry 1, and the ledger does not have it"):
        heal(opened, pseudonyms)


@pytest.mark.parametrize("number", [1, 2])
def test_missing_entry_before_the_last_is_damage(
    opened: UnitOfWorkFactory,
    tmp_path: Path,
    pseudonyms: Pseudonyms,
    forget: Forget,
    number: int,
) -> None:
    """Otherwise the deletions in the later entries would never be applied."""
    restore = backup(opened)
    for user_id in ("ann", "bob", "cid"):
        forget(user_id)
    restore()
    (entry,) = tmp_path.rglob(f"{number:012d}.json")
    entry.unlink()
    with pytest.raises(LedgerDamagedError, match=f"entry {number} is missing"):
        heal(opened, pseudonyms)


def test_other_entry_than_the_head_is_damage(
    opened: UnitOfWorkFactory, pseudonyms: Pseudonyms, forget: Forget
) -> None:
    forget("ann")
    with opened() as uow:
        uow.state.write_ledger_head(LedgerHead(number=1, digest="1" * 64))
    with pytest.raises(LedgerDamagedError, match="entry 1 is not the entry"):
        heal(opened, pseudonyms)


def test_ids_from_before_the_id_rule_are_found(
    uow_factory: UnitOfWorkFactory, forget: Forget, pseudonyms: Pseudonyms
) -> None:
    """The backup is from before the rule: its ids are as callers spelled them."""
    email = Pseudonyms(pseudonyms.key, IdRule.EMAIL)
    with uow_factory() as uow:
        uow.people.upsert_users([User(id="Eve@X.org", attributes={})])
    restore = backup(uow_factory)
    lost = forget("Eve@X.org")  # Under the rule `exact`, as before the rule.
    restore()
    settings = SETTINGS.model_copy(update={"id_rule": IdRule.EMAIL})
    with uow_factory() as uow:
        open_data(uow, ledger_of(uow_factory), email, settings)
    assert read(uow_factory, lost).subject == Subject(scope=Scope.USER, user_id="eve@x.org")
    assert is_suppressed(uow_factory, email.user("eve@x.org"))


def test_exact_training_that_was_lost_marks_the_request(
    opened: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    forget: Forget,
    start_job: StartJob,
    signer: Signer,
) -> None:
    lost = forget("ann")
    complete(opened, start_job(), signer)
    with opened() as uow:
        # A deletion without any weights is exact at once.
        approximate = {"assurance": Assurance.APPROXIMATE, "exact_at": None}
        uow.requests.change_status(uow.requests.get(lost.id), [_R.COMPLETED], **approximate)
    restore = backup(opened)
    with opened() as uow:
        record_exact(uow, uow.requests.get(lost.id), {"job": "job_lost"})
    restore()
    heal(opened, pseudonyms)
    request = read(opened, lost)
    assert request.status is _R.COMPLETED
    assert request.restored
    assert request.recovered == {"exact": True}
    with opened(write=False) as uow:
        assert not uow.state.restoring()
    assert LedgerEvent.EXACT.value in events(opened)
