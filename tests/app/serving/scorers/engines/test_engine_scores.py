"""Scores from an engine are torch's, release after release; what it is told of people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from app.serving.scorers.engine_scorer import EngineScorer
from app.serving.scorers.scorer import ScoringRequest
from models.prompts.scoring_inputs import Candidate
from tests.support.gateway_world import USERS, ask, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from tests.app.serving.scorers.engines.conftest import TextWorld


def scorer_of(replica: Replica) -> EngineScorer:
    with replica.live.capture() as loaded_model:
        assert isinstance(loaded_model.scorer, EngineScorer)
        return loaded_model.scorer


def test_every_releases_scores_are_torchs_and_only_the_live_one_is_held(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    first = texts.first()
    replica = start()
    service = make_service(replica)
    texts.check(service, first)
    assert set(texts.engine.adapters) == {f"lethe-{first}"}

    for seed in (2, 3):
        name = texts.roll_out(seed)
        texts.check(service, name)
        # Confirmed: the one before is gone from the engine, and so is what it had read.
        assert set(texts.engine.adapters) == {f"lethe-{name}"}
        assert texts.exported() == [name]
    assert replica.swaps == 3


def test_the_engine_hears_of_tokens_and_never_of_people(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    service = make_service(start())
    service.answer(ask("u1", 5))

    query = texts.engine.asked[-1].body
    strings = [word for word in walk(json.loads(json.dumps(query))) if isinstance(word, str)]
    salt = texts.engine.asked[-1].salt
    allowed = {salt, texts.engine.asked[-1].adapter}
    assert salt is not None
    assert not set(USERS) & set(strings)
    assert set(strings) <= allowed


def test_states_are_kept_apart_by_person_and_out_of_reach_once_forgotten(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    replica = start()
    service = make_service(replica)

    def salt(user: str) -> str | None:
        service.answer(ask(user, 5))
        return texts.engine.asked[-1].salt

    before, other = salt("u1"), salt("u2")
    assert before == salt("u1")
    assert before != other
    assert len(before or "") >= 43
    scorer = scorer_of(replica)
    variation = ScoringRequest(
        user_id="u1",
        attributes={},
        history=[],
        candidates=[Candidate(0, {}, "Heat")],
        keep=False,
    )
    scorer.score_all([variation, variation])
    assert len({before, other, *(asked.salt for asked in texts.engine.asked[-2:])}) == 4
    assert salt("u1") == before
    scorer.forget("u1")
    assert salt("u1") not in (before, other)
    assert salt("u2") == other


def test_an_engine_that_sees_the_adapters_elsewhere_is_told_so(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    name = texts.first()
    home = texts.world.settings.home
    (home / "elsewhere").symlink_to(home / "artifacts" / "adapters")
    texts.world.settings = texts.world.settings.model_copy(
        update={"engine_adapters": str(home / "elsewhere") + "/"}
    )
    seen: list[str] = []
    load = texts.engine.load
    texts.engine.load = lambda adapter, path: (seen.append(path), load(adapter, path))[1]  # type: ignore[method-assign]
    start()
    assert seen == [str(home / "elsewhere" / name)]


def test_a_compact_release_is_refused_with_the_way_out(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    lease, name = texts.world.publish(1)
    texts.world.flip(lease, name)
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica._release_switch.problem is not None, "no problem is reported")
    assert replica.live.release_id is None
    assert texts.engine.adapters == {}


def walk(value: object) -> list[object]:
    """Return every leaf of a JSON value."""
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in walk(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in walk(each)]
    return [value]
