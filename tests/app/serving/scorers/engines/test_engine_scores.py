"""Test that an engine's scores equal torch's, and what data the engine receives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from app.serving.scorers.engine_scorer import EngineScorer
from app.serving.scorers.scorer import ScoringRequest
from models.prompts.scoring_inputs import Candidate
from tests.support.gateway_world import USERS, ask
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from tests.app.serving.scorers.engines.conftest import TextWorld


def scorer_of(replica: Replica) -> EngineScorer:
    with replica.live.capture() as loaded_model:
        assert isinstance(loaded_model.scorer, EngineScorer)
        return loaded_model.scorer


def test_each_release_has_torchs_scores_and_only_the_live_adapter_is_loaded(
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
        # After the confirmation, the previous adapter is neither in the engine nor on disk.
        assert set(texts.engine.adapters) == {f"lethe-{name}"}
        assert texts.exported() == [name]
    assert replica.swaps == 3


def test_the_engine_receives_tokens_and_no_user_ids(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    service = make_service(start())
    service.answer(ask("u1", 5))

    query = texts.engine.queries[-1].body
    strings = [leaf for leaf in leaves(json.loads(json.dumps(query))) if isinstance(leaf, str)]
    salt = texts.engine.queries[-1].salt
    allowed = {salt, texts.engine.queries[-1].adapter}
    assert salt is not None
    assert not set(USERS) & set(strings)
    assert set(strings) <= allowed


def test_salts_separate_users_and_change_after_a_deletion(
    texts: TextWorld,
    start: Callable[[], Replica],
    make_service: Callable[[Replica], RecommendService],
) -> None:
    texts.first()
    replica = start()
    service = make_service(replica)

    def salt(user: str) -> str | None:
        service.answer(ask(user, 5))
        return texts.engine.queries[-1].salt

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
    assert len({before, other, *(query.salt for query in texts.engine.queries[-2:])}) == 4
    assert salt("u1") == before
    scorer.forget("u1")
    assert salt("u1") not in (before, other)
    assert salt("u2") == other


def test_the_engine_gets_the_configured_adapter_path(
    texts: TextWorld, start: Callable[[], Replica]
) -> None:
    name = texts.first()
    home = texts.world.settings.home
    (home / "elsewhere").symlink_to(home / "artifacts" / "adapters")
    texts.world.settings = texts.world.settings.model_copy(
        update={"engine_adapters": str(home / "elsewhere") + "/"}
    )
    paths: list[str] = []
    load = texts.engine.load
    texts.engine.load = lambda adapter, path: (paths.append(path), load(adapter, path))[1]  # type: ignore[method-assign]
    start()
    assert paths == [str(home / "elsewhere" / name)]


def test_a_compact_release_is_refused_and_reported(
    texts: TextWorld, make_replica: Callable[[], Replica]
) -> None:
    lease, name = texts.world.publish(1)
    texts.world.flip(lease, name)
    replica = make_replica()
    replica.start()
    wait_until(lambda: replica._release_switch.problem is not None, "no problem is reported")
    assert replica.live.release_id is None
    assert texts.engine.adapters == {}


def leaves(value: object) -> list[object]:
    """Return every leaf of a JSON value."""
    if isinstance(value, dict):
        return [leaf for child in value.values() for leaf in leaves(child)]
    if isinstance(value, list):
        return [leaf for child in value for leaf in leaves(child)]
    return [value]
