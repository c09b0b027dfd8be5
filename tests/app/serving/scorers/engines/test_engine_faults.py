"""Test the engine faults that users report: no wrong score is sent, no failed unload confirmed."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import EngineError
from tests.support.gateway_world import ask, serving, until_ready
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from tests.app.serving.scorers.engines.conftest import TextWorld

pytestmark = pytest.mark.slow


def shorten_golden_timeout(replica: Replica) -> None:
    """Give up on wrong golden scores sooner, without a shorter timeout for calls."""
    replica._backend._client._timeout = 0.3  # type: ignore[attr-defined]


def row(texts: TextWorld, replica: Replica) -> Any:
    """Return the replica's database row; on a busy machine, a new registration may replace it."""
    with texts.world.uow(write=False) as uow:
        rows = [row for row in uow.replicas.all() if row.id == replica.id]
    return rows[0] if rows else SimpleNamespace(serving=None, prepared=None, problem=None)


# Loads that the engine reports as done too early.


@pytest.mark.parametrize("early", ["unknown", "base"])
def test_an_adapter_counts_as_loaded_once_its_golden_scores_match(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    early: Any,
) -> None:
    texts.engine.faults.early, texts.engine.faults.early_queries = early, 3
    name = texts.first()
    service = make_service(start())
    assert len(texts.engine.queries) == 4
    texts.check(service, name)


@pytest.mark.parametrize("early", ["unknown", "base"])
def test_an_adapter_with_wrong_golden_scores_is_not_prepared(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
    early: Any,
) -> None:
    first = texts.first()
    replica = start()
    service = make_service(replica)
    shorten_golden_timeout(replica)
    texts.engine.faults.early, texts.engine.faults.early_queries = early, 10**6
    # The live adapter is past the early queries and keeps working.
    texts.engine._query_counts[f"lethe-{first}"] = 10**7
    _, second = texts.publish(2)
    wait_until(lambda: row(texts, replica).problem is not None, "no problem is reported")
    assert second in row(texts, replica).problem
    assert row(texts, replica).prepared is None
    texts.check(service, first)
    texts.engine.faults.early = ""
    wait_until(lambda: row(texts, replica).prepared == second, "the load is not retried")


# A prefix cache that survives another adapter under the same name.


def test_an_adapter_with_other_content_under_the_same_name_is_refused(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    """Another adapter was loaded under the name, and the engine's cache still has its states."""
    other, name = texts.first(1), texts.first(2)
    texts.engine.faults.stale_prefix_cache = True
    replica = make_replica()
    shorten_golden_timeout(replica)
    with texts.world.uow(write=False) as uow:
        wrong, right = uow.releases.get(other), uow.releases.get(name)
    assert wrong is not None
    assert right is not None
    replica._release_switch._load(wrong)  # Writes the adapter to disk.
    texts.engine.adapters[f"lethe-{name}"] = texts.engine.adapters[f"lethe-{other}"]
    with pytest.raises(EngineError, match=r"golden prompts.*float32"):
        replica._release_switch._load(right)
    del texts.engine.adapters[f"lethe-{name}"]
    # The right adapter is loaded now, but the cached states of the wrong adapter still answer.
    with pytest.raises(EngineError, match="golden prompts"):
        replica._release_switch._load(right)
    texts.engine.faults.stale_prefix_cache = False
    replica._release_switch._load(right)


def test_a_stale_prefix_cache_is_harmless_with_unique_names(
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


# Unloads that leave the adapter in place.


@pytest.mark.parametrize("fault", ["stays listed", "still answers"])
def test_a_replica_does_not_confirm_while_the_old_adapter_answers_queries(
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
    assert replica.reasons_not_ready() == []
    assert row(texts, replica).serving == first
    assert first in texts.exported()
    texts.check(service, second)  # The replica already answers from the new release.
    assert row(texts, replica).serving == first

    texts.engine.faults.unload = ""
    texts.engine._hidden.clear()
    wait_until(lambda: row(texts, replica).serving == second, "not confirmed")
    assert row(texts, replica).problem is None
    assert texts.exported() == [second]


# An engine that is unreachable or slow, or that sends invalid responses.


@pytest.mark.parametrize(
    "fault", ["count", "range", "nan", "words", "no json", "cut", "another", "status", "silent"]
)
def test_an_invalid_response_is_an_error_and_the_next_answer_is_right(
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
        replica._backend._client._http.timeout = 0.2  # type: ignore[attr-defined]
        texts.engine.faults.hang = threading.Event()
    else:
        texts.engine.faults.garbage = fault
    with pytest.raises(EngineError):
        service.answer(ask("u1", 5))
    if texts.engine.faults.hang is not None:
        texts.engine.faults.hang.set()
        replica._backend._client._http.timeout = 5.0  # type: ignore[attr-defined]
    texts.engine.faults.garbage, texts.engine.faults.status = "", None
    texts.check(service, name)


def test_a_gateway_answers_503_without_its_engine_and_recovers(
    texts: TextWorld,
) -> None:
    """A restarted engine has no adapters; the replica loads the live adapter again."""
    name = texts.first()

    async def run() -> None:
        app = texts.world.app()
        async with serving(app) as client:
            await until_ready(client)
            assert (await client.get("/recommend/u1")).json()["release"] == name
            await asyncio.to_thread(texts.engine.stop)
            unreachable = await client.get("/recommend/u1")
            assert (unreachable.status_code, unreachable.json()["type"]) == (
                503,
                "/problems/engine",
            )
            await asyncio.to_thread(texts.engine.start)
            lost = await client.get("/recommend/u1")
            assert (lost.status_code, lost.json()["type"]) == (503, "/problems/engine")
            await until_ready(client)
            assert (await client.get("/recommend/u1")).json()["release"] == name
            assert set(texts.engine.adapters) == {f"lethe-{name}"}

    asyncio.run(run())


def test_a_wrong_engine_key_is_reported(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    texts.world.settings = texts.world.settings.model_copy(update={"engine_key": None})
    texts.first()
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica._release_switch.problem is not None, "no problem is reported")
    assert texts.engine.queries == []


# Gateways that crash, and gateways that share an engine.


def test_adapters_of_crashed_gateways_are_unloaded_before_a_confirmation(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    first = texts.first()
    start().stop()
    # No gateway runs while the next release becomes live.
    assert f"lethe-{first}" in texts.engine.adapters
    texts.engine.adapters["other-application"] = texts.engine._model
    texts.engine.adapters["lethe-of-another-installation"] = texts.engine._model
    second = texts.first(2)
    replica = start()
    wait_until(lambda: row(texts, replica).serving == second, "not confirmed")
    others = {"other-application", "lethe-of-another-installation"}
    assert set(texts.engine.adapters) == {f"lethe-{second}"} | others
    assert texts.exported() == [second]


def test_a_stopped_gateway_leaves_adapters_of_the_other_gateway_loaded(
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


def test_an_answer_whose_adapter_another_gateway_unloads_is_computed_again(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    slow, fast = start(), start()
    service = make_service(slow)
    lease, second = texts.publish(2)
    wait_until(
        lambda: all(replica.prepared == second for replica in texts.world.live_replicas()),
        "not prepared",
    )
    is_flipped = threading.Event()

    def flip_once() -> None:
        if not is_flipped.is_set():
            is_flipped.set()
            texts.world.flip(lease, second)
            wait_until(
                lambda: row(texts, fast).serving == second, "the other gateway did not confirm"
            )

    texts.engine.faults.before = flip_once
    answer = service.answer(ask("u1", 5))
    assert is_flipped.is_set()
    assert answer.release == second
    texts.engine.faults.before = None
    texts.check(service, second)


def test_a_release_that_is_no_longer_the_target_is_unloaded(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    first = texts.first()
    replica = start()
    _, second = texts.publish(2)
    wait_until(lambda: row(texts, replica).prepared == second, "not prepared")
    assert set(texts.engine.adapters) == {f"lethe-{first}", f"lethe-{second}"}
    with texts.world.uow() as uow:
        uow.releases.set_target(None)
    wait_until(
        lambda: set(texts.engine.adapters) == {f"lethe-{first}"}, "the adapter is still loaded"
    )
    wait_until(lambda: texts.exported() == [first], "the adapter is still on disk")
    assert row(texts, replica).serving == first


def test_a_release_shredded_while_its_adapter_is_written_leaves_no_copy(
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

    texts.world.artifacts.exists = shredded  # type: ignore[method-assign] # shreds before the check
    with pytest.raises(ValueError, match="is gone"):
        replica._release_switch._load(release)
    assert texts.exported() == []
    assert texts.engine.adapters == {}
