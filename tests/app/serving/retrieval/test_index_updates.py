"""The index follows in slices beside the queries, and nothing forgotten comes back meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.recommendations import AttributeFilter
from app.services.interactions import add_interactions
from app.services.pseudonyms import Pseudonyms
from app.services.recommendation_inputs import read_inputs
from app.serving.retrieval import proposals
from app.serving.retrieval.first_stage import FirstStage
from app.serving.retrieval.index_updates import SLICE_ENTRIES
from tests.support.first_stages import index_bytes, propose, proposed, rebuilt
from tests.support.gateway_world import ITEMS, USERS, World, ask
from tests.support.statements import is_whole_table, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY = 3 * SLICE_ENTRIES


@dataclass
class RecordingLock:
    """A lock that knows the statements executed while it was held."""

    executed: list[str]
    inner: threading.Lock = field(default_factory=threading.Lock)
    holds: int = 0
    held: list[str] = field(default_factory=list)

    def __enter__(self) -> None:
        self.inner.acquire()
        self.holds += 1
        self._start = len(self.executed)

    def __exit__(self, *_: object) -> None:
        self.held += self.executed[self._start :]
        self.inner.release()


@contextmanager
def recorded(world: World, first_stage: FirstStage) -> Iterator[RecordingLock]:
    """Record the statements of the block, and those under the lock of the first stage."""
    with statements(world) as executed:
        lock = RecordingLock(executed)
        first_stage._lock = lock  # type: ignore[assignment]
        yield lock


def many_users(world: World, number: int = MANY) -> list[str]:
    """Store one call that changes many users, and return the users."""
    user_ids = [f"v{n:04}" for n in range(number)]
    with world.uow() as uow:
        add_interactions(
            uow,
            world.pseudonyms,
            [
                Interaction(user_id=user_id, item_id=f"i{n % ITEMS}", rating=5.0, timestamp=n + k)
                for number_of_user, user_id in enumerate(user_ids)
                for k, n in enumerate((number_of_user, number_of_user + 7))
            ],
        )
    return user_ids


def counted(world: World, first_stage: FirstStage, user_id: str = "u0") -> int:
    """Return the number of statements that the first stage itself executes for a query."""
    with world.uow(write=False) as uow:
        inputs = read_inputs(uow, world.pseudonyms, user_id)
        with recorded(world, first_stage) as lock:
            proposed(uow, first_stage, inputs, ask(user_id, 5), ITEMS)
    assert not lock.held
    return len(lock.executed)


def similar(world: World, first_stage: FirstStage, item_id: str) -> list[str]:
    with world.uow(write=False) as uow:
        view = first_stage.current(uow, uow.state.data_version())
    pairs = proposals.similar(view, item_id, 99, AttributeFilter())
    return [item.id for item, _ in pairs]


def test_a_query_reads_one_statement_after_a_call_that_changes_many_users(
    world: World, first_stage: FirstStage
) -> None:
    many_users(world)
    before = index_bytes(first_stage)
    assert counted(world, first_stage) == 1
    assert counted(world, first_stage) == 0
    assert index_bytes(first_stage) == before


def test_the_background_follows_many_users_with_few_statements_and_none_under_the_lock(
    world: World, first_stage: FirstStage
) -> None:
    """600 users, of whom one is forgotten and one forgets a rating."""
    user_ids = many_users(world, MANY)
    first_stage.follow()
    world.forget(user_ids[1])
    world.forget(user_ids[2], "i2")
    with world.uow() as uow:
        add_interactions(
            uow,
            world.pseudonyms,
            [
                Interaction(user_id=user_id, item_id="i29", rating=1.0, timestamp=9_000_000)
                for user_id in user_ids[2 : 2 + SLICE_ENTRIES]
            ],
        )
    with recorded(world, first_stage) as lock:
        first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))
    assert not [sql for sql in lock.executed if is_whole_table(sql)]
    # Two slices of at most eight statements, and two to find that nothing is left.
    assert len(lock.executed) <= 2 * 8 + 2
    assert lock.held == []
    assert lock.holds == 2


def test_a_rebuild_holds_the_lock_for_no_statement(world: World, first_stage: FirstStage) -> None:
    with world.uow() as uow:  # An import names no user in the log.
        uow.people.upsert_interactions(
            [Interaction(user_id="u5", item_id="i29", rating=5.0, timestamp=9)],
            uow.state.bump("interactions"),
        )
    with recorded(world, first_stage) as lock:
        first_stage.follow()
    assert [sql for sql in lock.executed if is_whole_table(sql)]
    assert (lock.holds, lock.held) == (1, [])


def test_the_deletion_of_an_item_that_no_user_rated_recounts_nothing(
    world: World, first_stage: FirstStage
) -> None:
    with world.uow() as uow:
        uow.people.upsert_items([("unrated", "Unrated", {})])
        uow.state.bump("items")
    first_stage.follow()
    world.forget(item_id="unrated")
    with recorded(world, first_stage) as lock:
        assert "unrated" not in propose(world, first_stage)
        first_stage.follow()
    assert not [sql for sql in lock.executed if is_whole_table(sql)]
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_the_deletion_of_an_item_with_many_raters_is_one_entry(
    world: World, first_stage: FirstStage
) -> None:
    many_users(world)
    first_stage.follow()
    with world.uow(write=False) as uow:
        version = uow.state.data_version()
        assert len(uow.people.raters_of("i3")) > 20
    world.forget(item_id="i3")
    with world.uow(write=False) as uow:
        assert len(uow.state.changes_since(version)) == 1
    # The log, and the items of open requests.
    assert counted(world, first_stage) == 2
    assert "i3" not in propose(world, first_stage)
    first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_an_import_makes_no_query_read_the_log_twice(world: World, first_stage: FirstStage) -> None:
    user_ids = many_users(world)
    with world.uow() as uow:
        uow.people.upsert_interactions(
            [Interaction(user_id="u5", item_id="i29", rating=5.0, timestamp=9)],
            uow.state.bump("interactions"),
        )
    world.forget(user_ids[0])
    assert counted(world, first_stage) == 1
    assert counted(world, first_stage) == 0
    world.forget(user_ids[1])
    assert counted(world, first_stage) == 1


def test_many_deletions_are_removed_at_once_by_an_overlay(
    world: World, first_stage: FirstStage
) -> None:
    user_ids = many_users(world)
    first_stage.follow()
    for user_id in user_ids[:40]:
        world.forget(user_id)
    before = index_bytes(first_stage)
    assert counted(world, first_stage) == 1
    expected = rebuilt(world)
    for user_id in USERS:
        assert propose(world, first_stage, user_id) == propose(world, expected, user_id)
    for item in range(ITEMS):
        assert similar(world, first_stage, f"i{item}") == similar(world, expected, f"i{item}")
    assert index_bytes(first_stage) == before
    first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(expected)


def test_the_asker_sees_own_ratings_at_once(world: World, first_stage: FirstStage) -> None:
    with world.uow() as uow:
        ratings = [
            Interaction(user_id="u0", item_id=f"i{n}", rating=5.0, timestamp=9000 + n)
            for n in (3, 17, 21)
        ]
        add_interactions(uow, world.pseudonyms, ratings)
    assert propose(world, first_stage) == propose(world, rebuilt(world))


class CountingPseudonyms(Pseudonyms):
    """Count the hashes of pairs."""

    hashed: list[tuple[str, str]] = []  # noqa: RUF012 -- frozen instances cannot hold a list

    def interaction(self, user_id: str, item_id: str) -> str:
        self.hashed.append((user_id, item_id))
        return super().interaction(user_id, item_id)


@pytest.mark.parametrize("has_pair", [False, True])
def test_pairs_are_hashed_only_if_a_pair_is_suppressed(world: World, has_pair: bool) -> None:
    world.forget("u3")
    world.forget(item_id="i1")
    if has_pair:
        with world.uow(write=False) as uow:
            item_id = uow.people.history("u4")[0].item_id
        world.forget("u4", item_id)
    values = {f.name: getattr(world.pseudonyms, f.name) for f in fields(Pseudonyms)}
    pseudonyms = CountingPseudonyms(**values)
    pseudonyms.hashed.clear()
    first_stage = FirstStage(world.uow, pseudonyms)
    first_stage.rebuild()
    assert bool(pseudonyms.hashed) == has_pair
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def unique_pair(world: World, user_id: str) -> tuple[str, str]:
    """Let a new user like two new items, and return the items."""
    items = f"{user_id}-a", f"{user_id}-b"
    with world.uow() as uow:
        uow.people.upsert_items([(item_id, item_id, {}) for item_id in items])
        uow.state.bump("items")
        add_interactions(
            uow,
            world.pseudonyms,
            [
                Interaction(user_id=user_id, item_id=item_id, rating=5.0, timestamp=n)
                for n, item_id in enumerate(items)
            ],
        )
    return items


def change_one(world: World) -> None:
    with world.uow() as uow:
        rating = Interaction(user_id="u7", item_id="i29", rating=5.0, timestamp=7)
        add_interactions(uow, world.pseudonyms, [rating])


def import_one(world: World) -> None:
    with world.uow() as uow:
        uow.state.bump("interactions")


@pytest.mark.parametrize("change", [change_one, import_one])
def test_a_deletion_between_counting_and_publishing_is_not_brought_back(
    world: World, first_stage: FirstStage, change: Callable[[World], None]
) -> None:
    """The callback runs after the new index was counted, with the person, and before it serves."""
    first, second = unique_pair(world, "secret")
    first_stage.follow()
    assert similar(world, first_stage, first) == [second]
    change(world)
    seen: list[list[str]] = []

    def forget_meanwhile(_: str | None) -> None:
        if not seen:
            seen.append([])
            world.forget("secret")
            seen[0] += similar(world, first_stage, first)

    first_stage.watch(forget_meanwhile)
    first_stage.follow()
    assert seen == [[]]
    assert similar(world, first_stage, first) == []
    first_stage.follow()
    assert similar(world, first_stage, first) == []
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_an_index_counted_before_a_restore_is_not_published(
    world: World, first_stage: FirstStage
) -> None:
    change_one(world)
    first_stage.watch(lambda user_id: first_stage.discard_newer(0) if user_id == "u7" else None)
    first_stage.follow()
    assert first_stage.version == -1 or index_bytes(first_stage) == index_bytes(rebuilt(world))
    propose(world, first_stage)
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_no_thread_sees_a_person_after_the_deletion_was_accepted(
    world: World, first_stage: FirstStage
) -> None:
    """Readers, the follower and deletions run beside each other on one first stage."""
    people = {f"secret{n}": unique_pair(world, f"secret{n}") for n in range(12)}
    first_stage.follow()
    accepted: list[str] = []
    done = threading.Event()
    failures: list[str] = []

    def read() -> int:
        reads = 0
        while not done.is_set() or not reads:
            gone = list(accepted)
            for user_id in gone:
                first, _ = people[user_id]
                if similar(world, first_stage, first):
                    failures.append(user_id)
            propose(world, first_stage, "u1")
            reads += 1
        return reads

    def follow() -> None:
        while not done.is_set():
            first_stage.follow()

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(read), threads.submit(read), threads.submit(follow)]
        try:
            for number, user_id in enumerate(people):
                world.forget(user_id)
                accepted.append(user_id)
                if number % 4 == 3:
                    import_one(world)
        finally:
            done.set()
        for future in running:
            future.result()
    assert not failures
    first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))
