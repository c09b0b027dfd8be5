"""What users of engines report, done to Lethe: nothing wrong is confirmed, or said."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import EngineError
from tests.support.gateway_world import ask, serving, until_ready, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from tests.app.serving.scorers.engines.conftest import TextWorld


def hurry(replica: Replica) -> None:
    """Have wrong answers to golden prompts believed sooner; calls may take as long as ever."""
    replica._scorers._engine._timeout = 0.3  # type: ignore[attr-defined]


def row(texts: TextWorld, replica: Replica) -> Any:
    """Return what the database holds of the replica, which on a busy machine may come back."""
    with texts.world.uow(write=False) as uow:
        found = [one for one in uow.replicas.all() if one.id == replica.id]
    return found[0] if found else SimpleNamespace(serving=None, prepared=None, problem=None)


# Loading that is answered too early.


@pytest.mark.parametrize("early", ["unknown", "base"])
def test_an_adapter_counts_as_loaded_once_its_answers_are_right(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    early: Any,
) -> None:
    texts.engine.faults.early, texts.engine.faults.early_queries = early, 3
    name = texts.first()
    service = make_service(start())
    assert len(texts.engine.asked) == 4
    texts.check(service, name)


@pytest.mark.parametrize("early", ["unknown", "base"])
def test_an_adapter_that_never_answers_rightly_is_never_prepared(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    early: Any,
) -> None:
    first = texts.first()
    replica = start()
    service = make_service(replica)
    hurry(replica)
    texts.engine.faults.early, texts.engine.faults.early_queries = early, 10**6
    # The live adapter has been asked already, and goes on.
    texts.engine._query_reader[f"lethe-{first}"] = 10**7
    _, second = texts.publish(2)
    wait_until(lambda: row(texts, replica).problem is not None, "no problem is reported")
    assert second in row(texts, replica).problem
    assert row(texts, replica).prepared is None
    texts.check(service, first)
    texts.engine.faults.early = ""
    wait_until(lambda: row(texts, replica).prepared == second, "it is not tried again")


# A prefix cache that answers for what was loaded under the name before.


def test_an_adapter_of_other_content_under_our_name_is_refused(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    """Somebody had something else loaded under the name, and the engine's cache remembers."""
    other, name = texts.first(1), texts.first(2)
    texts.engine.faults.stale_prefix_cache = True
    replica = make_replica()
    hurry(replica)
    with texts.world.uow(write=False) as uow:
        wrong, right = uow.releases.get(other), uow.releases.get(name)
    assert wrong is not None
    assert right is not None
    replica._release_switch._load(wrong)  # Writes it where the engine can read it.
    texts.engine.adapters[f"lethe-{name}"] = texts.engine.adapters[f"lethe-{other}"]
    with pytest.raises(EngineError, match=r"golden prompts.*float32"):
        replica._release_switch._load(right)
    del texts.engine.adapters[f"lethe-{name}"]
    # It is loaded rightly now; what was cached before still answers.
    with pytest.raises(EngineError, match="golden prompts"):
        replica._release_switch._load(right)
    texts.engine.faults.stale_prefix_cache = False
    replica._release_switch._load(right)


def test_a_stale_prefix_cache_does_no_harm_where_no_name_comes_twice(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.engine.faults.stale_prefix_cache = True
    first = texts.first()
    service = make_service(start())
    texts.check(service, first)
    for seed in (2, 3):
        texts.check(service, texts.roll_out(seed))


# Unloading that leaves the adapter there.


@pytest.mark.parametrize("fault", ["stays listed", "still answers"])
def test_a_replica_confirms_nothing_while_the_old_adapter_can_be_asked(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    fault: Any,
) -> None:
    first = texts.first()
    replica = start()
    service = make_service(replica)
    texts.engine.faults.unload = fault
    lease, second = texts.publish(2)
    wait_until(lambda: row(texts, replica).prepared == second, "not prepared")
    texts.world.flip(lease, second)
    wait_until(lambda: row(texts, replica).problem is not None, "no problem is reported")
    assert "older releases cannot be unloaded" in row(texts, replica).problem
    assert row(texts, replica).serving == first
    assert first in texts.exported()
    texts.check(service, second)  # It answers all the same, from the new one.
    assert row(texts, replica).serving == first

    texts.engine.faults.unload = ""
    texts.engine._hidden.clear()
    wait_until(lambda: row(texts, replica).serving == second, "not confirmed")
    assert row(texts, replica).problem is None
    assert texts.exported() == [second]


# An engine that is away, slow, or talks nonsense.


@pytest.mark.parametrize(
    "fault", ["count", "range", "nan", "words", "no json", "cut", "another", "status", "silent"]
)
def test_nonsense_is_never_an_answer_and_the_next_one_is_right(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    fault: Any,
) -> None:
    name = texts.first()
    replica = start()
    service = make_service(replica)
    if fault == "status":
        texts.engine.faults.status = 500
    elif fault == "silent":
        replica._scorers._engine._client.timeout = 0.2  # type: ignore[attr-defined]
        texts.engine.faults.hang = threading.Event()
    else:
        texts.engine.faults.garbage = fault
    with pytest.raises(EngineError):
        service.answer(ask("u1", 5))
    if texts.engine.faults.hang is not None:
        texts.engine.faults.hang.set()
        replica._scorers._engine._client.timeout = 5.0  # type: ignore[attr-defined]
    texts.engine.faults.garbage, texts.engine.faults.status = "", None
    texts.check(service, name)


def test_without_its_engine_the_gateway_says_503_and_finds_it_again_by_itself(
    texts: TextWorld,
) -> None:
    """A restarted engine has no adapters: the replica sees to it that it has."""
    name = texts.first()

    async def live() -> None:
        app = texts.world.app()
        async with serving(app) as client:
            await until_ready(client)
            assert (await client.get("/recommend/u1")).json()["release"] == name
            await asyncio.to_thread(texts.engine.stop)
            away = await client.get("/recommend/u1")
            assert (away.status_code, away.json()["type"]) == (503, "/problems/engine")
            await asyncio.to_thread(texts.engine.start)
            lost = await client.get("/recommend/u1")
            assert (lost.status_code, lost.json()["type"]) == (503, "/problems/engine")
            await until_ready(client)
            assert (await client.get("/recommend/u1")).json()["release"] == name
            assert set(texts.engine.adapters) == {f"lethe-{name}"}

    asyncio.run(live())


def test_a_wrong_key_is_a_problem_and_no_answer(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    texts.world.settings = texts.world.settings.model_copy(update={"engine_key": None})
    texts.first()
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica._release_switch.problem is not None, "no problem is reported")
    assert texts.engine.asked == []


# Gateways that die, and gateways that share an engine.


def test_what_dead_gateways_left_is_gone_before_the_next_one_confirms(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    first = texts.first()
    start().stop()
    # It went, and nobody was up when the next release became live.
    assert f"lethe-{first}" in texts.engine.adapters
    texts.engine.adapters["somebody-elses"] = texts.engine._model
    texts.engine.adapters["lethe-of-another-installation"] = texts.engine._model
    second = texts.first(2)
    replica = start()
    wait_until(lambda: row(texts, replica).serving == second, "not confirmed")
    others = {"somebody-elses", "lethe-of-another-installation"}
    assert set(texts.engine.adapters) == {f"lethe-{second}"} | others
    assert texts.exported() == [second]


def test_one_that_leaves_takes_nothing_from_the_other(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    staying, leaving = start(), start()
    second = texts.roll_out(2)
    leaving.stop()
    service = make_service(staying)
    texts.check(service, second)
    texts.check(service, texts.roll_out(3))


def test_an_answer_whose_adapter_a_sibling_has_unloaded_is_made_anew(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    slow, fast = start(), start()
    service = make_service(slow)
    lease, second = texts.publish(2)
    wait_until(
        lambda: all(one.prepared == second for one in texts.world.live_replicas()), "not prepared"
    )
    called = threading.Event()

    def flip_meanwhile() -> None:
        if not called.is_set():
            called.set()
            texts.world.flip(lease, second)
            wait_until(lambda: row(texts, fast).serving == second, "the sibling did not confirm")

    texts.engine.faults.before = flip_meanwhile
    answer = service.answer(ask("u1", 5))
    assert called.is_set()
    assert answer.release == second
    texts.engine.faults.before = None
    texts.check(service, second)


def test_a_release_that_lost_its_roll_out_is_let_go_of(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    first = texts.first()
    replica = start()
    _, second = texts.publish(2)
    wait_until(lambda: row(texts, replica).prepared == second, "not prepared")
    assert set(texts.engine.adapters) == {f"lethe-{first}", f"lethe-{second}"}
    with texts.world.uow() as uow:
        uow.releases.set_target(None)
    wait_until(lambda: set(texts.engine.adapters) == {f"lethe-{first}"}, "it is still held")
    wait_until(lambda: texts.exported() == [first], "its copy still lies there")
    assert row(texts, replica).serving == first


def test_a_copy_of_a_release_that_was_shredded_meanwhile_does_not_stay(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    name = texts.first()
    replica = make_replica()
    with texts.world.uow(write=False) as uow:
        release = uow.releases.get(name)
    assert release is not None
    exists = texts.world.artifacts.exists

    def shredded(relative: str) -> bool:
        texts.world.artifacts.remove(relative)
        return exists(relative)

    texts.world.artifacts.exists = shredded  # type: ignore[method-assign] # shreds in between
    with pytest.raises(ValueError, match="is gone"):
        replica._release_switch._load(release)
    assert texts.exported() == []
    assert texts.engine.adapters == {}
