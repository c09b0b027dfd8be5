"""The first start fixes the id rule, and gives stored ids their normal form without a loss."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from app.cli.installation import open_installation
from app.domain.catalog import User
from app.domain.errors import (
    GoneError,
    IdRuleMismatchError,
)
from app.domain.id_rules import IdRule
from app.domain.requests import Scope, Subject
from app.main import make_gateway
from app.services.identity import open_identity
from app.services.pseudonyms import Pseudonyms
from app.services.recommendation_inputs import read_inputs
from app.services.users import read_user
from app.storage.tables import UserRow
from tests.app.services.test_forget import SETTINGS, complete, run_concurrently
from tests.app.services.test_identity import forget, rating, suppressed_before_the_rule, tombstone
from tests.support.processes import PATIENCE_SECONDS
from worker.context import build_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.jobs import Lease
    from app.services.certificates import Signer
    from app.settings import Settings
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory
    from tests.support.gateway_world import World

NFC, NFD = "Jürgen", "Ju\u0308rgen"
EMAIL = Pseudonyms(b"a key for tests, thirty-two bytes", IdRule.EMAIL)


@pytest.fixture
def unruly(catalog: UnitOfWorkFactory) -> UnitOfWorkFactory:
    """A database from before the rule: spellings of users and items, and ids without a form."""
    with catalog() as uow:
        uow.people.upsert_items([(NFD, "Decomposed", {}), (NFC, "Composed", {}), (" i9", "I9", {})])
        uow.people.upsert_users(
            [
                User(id=NFC, attributes={"age": "8"}),
                User(id=NFD, attributes={"age": "9", "gender": "F"}),
                User(id=" 9042 ", attributes={}),
                User(id="bad\x01", attributes={}),
            ]
        )
        uow.people.upsert_interactions(
            [
                rating(NFC, "i1", 1000),
                rating(NFD, "i1", 2000),
                rating(NFC, "i2", 2000),
                rating(NFD, "i2", 1000),
                rating(NFD, "i3"),
                rating(" 9042 ", NFD, 1000),
                rating(" 9042 ", NFC, 3000),
                rating("ann", NFC),
                rating("bob", " i9"),
                rating("bad\x01"),
            ],
            version=0,
        )
        uow.state.bump("interactions", [NFD, "ann", " 9042 "])
    return catalog


__all__ = ["tombstone"]


def start(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    with factory() as uow:
        open_identity(uow, pseudonyms, SETTINGS)


def all_rows(uow: UnitOfWork) -> list[tuple[str, str, int]]:
    return [(row.user_id, row.item_id, row.timestamp) for row in uow.people.interactions()]


def test_first_start_renames_and_merges_stored_ids(
    unruly: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with unruly(write=False) as uow:
        before = {item.id: item.item_index for item in uow.people.items()}
        version = uow.state.data_version()
    start(unruly, pseudonyms)
    with unruly(write=False) as uow:
        users = {user.id: user.attributes for user in uow.people.users()}
        items = {item.id: item for item in uow.people.items() if not item.retired}
        retired = [item for item in uow.people.items() if item.retired]
        rows = all_rows(uow)
        changes = uow.state.changes_since(0)
    assert set(users) == {"ann", "bob", "cid", NFC, "9042", "bad\x01"}
    assert users[NFC] == {"age": "8", "gender": "F"}
    assert items[NFC].title == "Decomposed"
    assert items[NFC].item_index == before[NFD]
    assert items["i9"].item_index == before[" i9"]
    assert [(item.item_index, item.title) for item in retired] == [(before[NFC], "")]
    assert {row for row in rows if row[0] in {NFC, "9042", "bob", "bad\x01"}} >= {
        (NFC, "i1", 2000),
        (NFC, "i2", 2000),
        (NFC, "i3", 2000),
        ("9042", NFC, 3000),
        ("bob", "i9", 2000),
        ("bad\x01", "i1", 2000),
    }
    assert ("ann", NFC, 2000) in rows
    assert not {NFD, " i9", " 9042 "} & {part for row in rows for part in row[:2]}
    assert {change.user_id for change in changes} == {NFC, "ann", "9042", None}
    assert {c.kind for c in changes if c.version > version} == {"items", "forget"}


def test_second_start_changes_nothing(unruly: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    start(unruly, pseudonyms)
    with unruly(write=False) as uow:
        version, rows = uow.state.data_version(), all_rows(uow)
    start(unruly, pseudonyms)
    with unruly(write=False) as uow:
        assert (uow.state.data_version(), all_rows(uow)) == (version, rows)


def test_first_start_of_an_empty_database_stores_the_rule_only(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    start(uow_factory, pseudonyms)
    with uow_factory(write=False) as uow:
        assert uow.identity.rule() == "exact"
        assert uow.state.data_version() == 0


def test_first_start_under_the_email_rule_merges_users_and_keeps_items(
    catalog: UnitOfWorkFactory,
) -> None:
    with catalog() as uow:
        uow.people.ensure_users(["Ann", "ANN", "Dan"])
        uow.people.upsert_items([("I0", "Other", {})])
        uow.people.upsert_interactions([rating("ANN", "i4"), rating("Dan", "I0")], version=0)
    start(catalog, EMAIL)
    with catalog(write=False) as uow:
        assert [user.id for user in uow.people.users()] == ["ann", "bob", "cid", "dan"]
        assert [row.item_id for row in uow.people.history("ann")][-1] == "i4"
        assert {"i0", "I0"} <= {item.id for item in uow.people.items()}


def test_start_with_another_rule_fails_and_names_the_stored_one(
    uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    start(uow_factory, pseudonyms)
    with pytest.raises(IdRuleMismatchError, match="Set LETHE_ID_RULE=exact for every process"):
        start(uow_factory, EMAIL)
    with uow_factory(write=False) as uow:
        assert uow.identity.rule() == "exact"


def test_processes_that_start_at_the_same_time_fix_the_rule_once(
    unruly: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    rules = [pseudonyms, EMAIL, pseudonyms, EMAIL]
    results = run_concurrently(*(lambda p=p: start(unruly, p) for p in rules))  # type: ignore[misc]
    with unruly(write=False) as uow:
        stored = uow.identity.rule()
        changes = [c for c in uow.state.changes_since(3) if c.kind == "forget"]
    assert len(changes) == 1
    for rule, result in zip(rules, results, strict=True):
        expected = type(None) if rule.id_rule == stored else IdRuleMismatchError
        assert isinstance(result, expected)


_KILLED = """
import os, signal, sys
from app.services.identity import open_identity
from app.services.pseudonyms import Pseudonyms
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.repositories.identity import IdentityRepository
from app.storage.unit_of_work import UnitOfWorkFactory

IdentityRepository.store_rule = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with UnitOfWorkFactory(make_database(sys.argv[1]))() as uow:
    open_identity(uow, Pseudonyms(sys.argv[2].encode()), Settings())
"""


def test_killed_first_start_leaves_everything_and_the_next_one_succeeds(
    database: Database, unruly: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with unruly(write=False) as uow:
        before = all_rows(uow), list(uow.people.users()), uow.people.items()
    url = database.write.url.render_as_string(hide_password=False)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, url, pseudonyms.key.decode()],
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert killed.returncode == -9
    with unruly(write=False) as uow:
        assert (all_rows(uow), list(uow.people.users()), uow.people.items()) == before
        assert uow.identity.rule() is None
    start(unruly, pseudonyms)
    with unruly(write=False) as uow:
        assert uow.people.user(NFD) is None
        assert uow.identity.rule() == "exact"


@pytest.mark.parametrize(("forgotten", "other"), [(NFD, NFC), (NFC, NFD)])
def test_open_deletion_of_one_spelling_covers_the_merged_person(
    unruly: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    start_job: Callable[[], Lease],
    signer: Signer,
    forgotten: str,
    other: str,
) -> None:
    with unruly() as uow:
        request = suppressed_before_the_rule(
            uow, pseudonyms, Subject(scope=Scope.USER, user_id=forgotten)
        )
    start(unruly, pseudonyms)
    with unruly() as uow:
        stored = uow.requests.get(request.id)
        assert stored.subject == Subject(scope=Scope.USER, user_id=NFC)
        assert set(stored.subject_hashes) >= {pseudonyms.user(forgotten), pseudonyms.user(NFC)}
        assert uow.suppressions.matching([pseudonyms.user(NFC)])
        for spelling in (forgotten, other):
            with pytest.raises(GoneError):
                read_user(uow, pseudonyms, spelling)
            assert forget(uow, pseudonyms, spelling).id == request.id
    complete(unruly, start_job(), signer)
    with unruly(write=False) as uow:
        assert uow.people.user(NFC) is None
        assert not [row for row in all_rows(uow) if row[0] == NFC]


def test_open_deletions_of_items_and_pairs_follow_the_rule(
    unruly: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    pair = Subject(scope=Scope.USER_ITEMS, user_id=NFD, item_ids=(NFD, "i3"))
    with unruly() as uow:
        uow.people.upsert_interactions([rating(NFD, NFD)], version=0)
        pair_id = suppressed_before_the_rule(uow, pseudonyms, pair).id
        item_id = suppressed_before_the_rule(
            uow, pseudonyms, Subject(scope=Scope.ITEM, item_ids=(NFD,))
        ).id
    start(unruly, pseudonyms)
    with unruly(write=False) as uow:
        assert uow.requests.get(pair_id).subject == dataclasses.replace(
            pair, user_id=NFC, item_ids=(NFC, "i3")
        )
        assert uow.requests.open_item_ids() == {NFC}
        hashes = {pseudonyms.item(NFC), pseudonyms.interaction(NFC, "i3"), pseudonyms.item(NFD)}
        assert uow.suppressions.matching(hashes) == hashes
        assert uow.requests.get(item_id).subject_hashes[0] == pseudonyms.item(NFD)


@pytest.mark.parametrize(("forgotten", "stored"), [(NFD, NFC), (NFC, NFD)])
def test_data_stored_under_another_spelling_of_a_forgotten_person_is_deleted(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    tombstone: Callable[[Subject], str],
    forgotten: str,
    stored: str,
) -> None:
    tombstone(Subject(scope=Scope.USER, user_id=forgotten))
    with catalog() as uow:
        uow.people.ensure_users([stored])
        uow.people.upsert_interactions([rating(stored)], version=0)
    start(catalog, pseudonyms)
    with catalog() as uow:
        (request,) = uow.requests.open_of_user(NFC)
        assert request.subject == Subject(scope=Scope.USER, user_id=NFC)
        with pytest.raises(GoneError):
            read_inputs(uow, pseudonyms, NFC)


def test_pair_and_item_forgotten_in_another_spelling_are_deleted(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, tombstone: Callable[[Subject], str]
) -> None:
    tombstone(Subject(scope=Scope.USER_ITEMS, user_id=NFD, item_ids=("i1",)))
    tombstone(Subject(scope=Scope.ITEM, item_ids=(NFD,)))
    with catalog() as uow:
        uow.people.upsert_items([(NFC, "Composed", {})])
        uow.people.ensure_users([NFC])
        uow.people.upsert_interactions([rating(NFC), rating(NFC, "i2")], version=0)
    start(catalog, pseudonyms)
    with catalog(write=False) as uow:
        (request,) = uow.requests.open_of_user(NFC)
        assert request.subject == Subject(scope=Scope.USER_ITEMS, user_id=NFC, item_ids=("i1",))
        assert uow.requests.open_item_ids() == {NFC}


def test_first_start_draws_holdout_users_from_the_stored_spelling(
    database: Database, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    spelled = [f" user {n} " for n in range(300)]
    share = SETTINGS.holdout_share
    drawn = {user_id.strip() for user_id in spelled if pseudonyms.never_trained(user_id, share)}
    assert drawn != {u.strip() for u in spelled if pseudonyms.never_trained(u.strip(), share)}
    with uow_factory() as uow:
        uow.people.ensure_users(spelled)
    start(uow_factory, pseudonyms)
    with database.read.connect() as connection:
        rows = connection.execute(UserRow.__table__.select()).all()
    assert {row.id for row in rows if row.holdout} == drawn


def test_merged_person_is_a_holdout_user_only_if_every_spelling_was(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    with uow_factory() as uow:
        uow.people.ensure_users([NFC, NFD, "a", " a"])
    with database.write.begin() as connection:
        connection.execute(
            update(UserRow).where(UserRow.id.in_([NFD, "a", " a"])).values(holdout=True)
        )
    with uow_factory() as uow:
        uow.identity.rename_user(NFD, NFC)
        uow.identity.rename_user(" a", "a")
    with database.read.connect() as connection:
        rows = {row.id: row.holdout for row in connection.execute(UserRow.__table__.select())}
    assert rows == {NFC: False, "a": True}


# Every process checks the rule.


@pytest.fixture
def ruled_world(world: World) -> Settings:
    """Settings with another rule than the one that the installation was started with."""
    start(world.uow, world.pseudonyms)
    return world.settings.model_copy(update={"id_rule": IdRule.EMAIL})


def test_command_line_refuses_another_rule(ruled_world: Settings) -> None:
    with pytest.raises(IdRuleMismatchError), open_installation(ruled_world):
        pass


def test_worker_refuses_another_rule(ruled_world: Settings) -> None:
    with pytest.raises(IdRuleMismatchError):
        build_context(ruled_world)


def test_gateway_refuses_another_rule_and_gets_no_lease(
    world: World, ruled_world: Settings
) -> None:
    gateway = make_gateway(ruled_world, world.uow.database)
    with pytest.raises(IdRuleMismatchError):
        gateway.replica.tick()
    assert not gateway.replica.answer_lease.valid


@pytest.mark.parametrize(
    "command", [["worker", "import", "ratings.csv"], ["worker", "run"], ["app.gateway"]]
)
@pytest.mark.usefixtures("ruled_world")
def test_process_with_another_rule_ends_with_the_reason(tmp_path: Path, command: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "LETHE_HOME": str(tmp_path),
            "LETHE_ID_RULE": "email",
            "LETHE_PORT": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode != 0
    assert "LETHE_ID_RULE=exact" in ended.stdout + ended.stderr
