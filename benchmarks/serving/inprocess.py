"""What one recommendation costs inside of the gateway, part by part, and how that grows."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from app.domain.recommendations import RecommendationQuery
from app.services.recommendation_inputs import SuppressedItemsCache, read_inputs
from app.serving.recommend.ranking import PreparedQuery
from app.serving.scorers.torch_scorer import TorchScorer
from app.storage.artifacts import ArtifactStore
from benchmarks.scoring import POLICY, measured, requests
from benchmarks.synthetic_candidates import synthetic
from models.checkpoints import checkpoint as checkpoints
from models.data.interactions import Interactions, ItemRecord
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from models.retrieval.candidate_index import CandidateIndex, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.api.state import Gateway

T = TypeVar("T")

_PROFILED: Final = 200
_TOP: Final = 40


def parts(made: Gateway, users: Sequence[str]) -> dict[str, float]:
    """Return the median milliseconds of each part of an answer, and of whole answers."""
    spent: dict[str, list[float]] = {}
    size, open_items = made.settings.candidates, SuppressedItemsCache()

    def timed(name: str, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        began = time.perf_counter()
        found = work(*arguments, **named)
        spent.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return found

    for user in users:
        query = RecommendationQuery(person=user)
        with made.uow(write=False) as uow:
            inputs = timed("read", read_inputs, uow, made.pseudonyms, user, open_items)
            proposal = timed("first stage", made.first_stage.propose, uow, inputs, query, 0, size)
        request = PreparedQuery(query=query, inputs=inputs, proposal=proposal, start=0).request()
        with made.replica.live.capture() as loaded_model:
            timed("model", loaded_model.scorer.score, replace(request, keep=False))
            timed("model, history kept", loaded_model.scorer.score, request)
        timed("whole", made.recommender.answer, query)
    return {name: median(each) for name, each in spent.items()}


def profile(made: Gateway, users: Sequence[str]) -> str:
    """Return where the time of answers goes, function by function."""
    profiler = cProfile.Profile()
    profiler.enable()
    for user in users[:_PROFILED]:
        made.recommender.answer(RecommendationQuery(person=user))
    profiler.disable()
    text = io.StringIO()
    found = pstats.Stats(profiler, stream=text)
    found.strip_dirs().sort_stats("cumulative").print_stats(_TOP)
    found.sort_stats("tottime").print_stats(_TOP)
    return text.getvalue()


def ratios(made: Gateway, people: int, repetitions: int) -> dict[str, Any]:
    """Compare the live release's scoring with slower ways, in this process by turns."""
    with made.uow(write=False) as uow:
        live = uow.releases.alias().live
        release = None if live is None else uow.releases.get(live)
        items = [item for item in uow.people.items() if not item.retired]
    if release is None:
        raise ValueError("no release is live")
    store = ArtifactStore(made.settings.artifacts_root, made.settings.home / "cache")
    recommender = checkpoints.load(store.local_path(release.path))
    data = Interactions.unrated(
        [
            ItemRecord(
                id=item.id,
                title=item.title,
                attributes={name: tuple(values) for name, values in item.attributes.items()},
            )
            for item in items
        ]
    )
    asked = requests(data, people, min(made.settings.candidates, len(items) // 2), seed=0)
    return measured(recommender, asked, repetitions)


def growth(repetitions: int = 20) -> dict[str, list[dict[str, float]]]:
    """Return milliseconds of the first stage and the model, each with one thing growing."""
    return {
        "items": [_point(items=items, repetitions=repetitions) for items in (1_000, 5_000, 20_000)],
        "users": [_point(users=users, repetitions=repetitions) for users in (1_000, 5_000, 20_000)],
        "history": [_point(history=size, repetitions=repetitions) for size in (1, 5, 10, 100)],
    }


def _point(
    *, users: int = 2_000, items: int = 5_000, history: int = 20, repetitions: int
) -> dict[str, float]:
    """Measure at one size: people with about 30 ratings each, 200 candidates."""
    data = synthetic(users, items, 30 * users)
    genres = [{"genre": (str(item_index % 20),)} for item_index in range(items)]
    described = [
        replace(item, attributes=each) for item, each in zip(data.items, genres, strict=True)
    ]
    data = replace(data, items=tuple(described))
    index = CandidateIndex.build(data)
    recommender = build(Vocabulary.from_catalog(data), parse_backbone("compact"))
    recommender.model.eval()
    scorer = TorchScorer(recommender, POLICY)
    asked = requests(data, 1, 200, seed=0)[0]
    drawn = np.random.default_rng(0).choice(items, history, replace=False).tolist()
    known = list(asked.history)
    asked = replace(asked, history=(known * (history // len(known) + 1))[:history])
    events = [Event(item_index, 5.0, when) for when, item_index in enumerate(drawn)]
    first, model = [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        index.propose(events, 200, excluded=drawn)
        between = time.perf_counter()
        scorer.score(replace(asked, keep=False))
        first.append(between - began)
        model.append(time.perf_counter() - between)
    return {
        "users": users,
        "items": items,
        "history": history,
        "first_stage_ms": 1000 * median(first),
        "model_ms": 1000 * median(model),
    }
