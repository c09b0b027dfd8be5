"""Measure the parts of a recommendation inside the gateway, and their growth with the data."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from app.domain.errors import LetheError
from app.domain.recommendations import RecommendationQuery
from app.serving.scorers.torch_scorer import TorchScorer
from app.storage.artifacts import ArtifactStore
from benchmarks.scoring import SCORING_POLICY, draw_requests, measure_recommender
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

_PROFILED_USERS: Final = 200
_PRINTED_FUNCTIONS: Final = 40


def parts(gateway: Gateway, users: Sequence[str]) -> dict[str, float]:
    """Return the median milliseconds of each part of an answer, and of whole answers."""
    durations: dict[str, list[float]] = {}
    reader = gateway.recommender.query_reader

    def timed(name: str, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        started = time.perf_counter()
        result = work(*arguments, **named)
        durations.setdefault(name, []).append(1000 * (time.perf_counter() - started))
        return result

    for user in users:
        query = RecommendationQuery(person=user)
        (prepared,) = timed("read", reader.read, [query])
        if isinstance(prepared, LetheError):
            raise prepared
        request = prepared.request()
        with gateway.replica.live.capture() as serving_model:
            timed("model", serving_model.scorer.score, replace(request, keep=False))
            timed("model, history kept", serving_model.scorer.score, request)
        timed("recheck", reader.recheck, [prepared])
        timed("whole", gateway.recommender.answer, query)
    return {name: median(values) for name, values in durations.items()}


def profile(gateway: Gateway, users: Sequence[str]) -> str:
    """Return a profile of answers by cumulative and by own time of each function."""
    profiler = cProfile.Profile()
    profiler.enable()
    for user in users[:_PROFILED_USERS]:
        gateway.recommender.answer(RecommendationQuery(person=user))
    profiler.disable()
    text = io.StringIO()
    statistics = pstats.Stats(profiler, stream=text)
    statistics.strip_dirs().sort_stats("cumulative").print_stats(_PRINTED_FUNCTIONS)
    statistics.sort_stats("tottime").print_stats(_PRINTED_FUNCTIONS)
    return text.getvalue()


def ratios(gateway: Gateway, users: int, repetitions: int) -> dict[str, Any]:
    """Compare the live release's scoring with slower methods in this process."""
    with gateway.uow(write=False) as uow:
        live = uow.releases.alias().live
        release = None if live is None else uow.releases.get(live)
        items = [item for item in uow.people.items() if not item.retired]
    if release is None:
        raise ValueError("no release is live")
    store = ArtifactStore(gateway.settings.artifacts_root, gateway.settings.home / "cache")
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
    requests = draw_requests(data, users, min(gateway.settings.candidates, len(items) // 2), seed=0)
    return measure_recommender(recommender, requests, repetitions)


def growth(repetitions: int = 20) -> dict[str, list[dict[str, float]]]:
    """Return milliseconds of first stage and model for growing items, users and histories."""
    return {
        "items": [_point(items=items, repetitions=repetitions) for items in (1_000, 5_000, 20_000)],
        "users": [_point(users=users, repetitions=repetitions) for users in (1_000, 5_000, 20_000)],
        "history": [_point(history=size, repetitions=repetitions) for size in (1, 5, 10, 100)],
    }


def _point(
    *, users: int = 2_000, items: int = 5_000, history: int = 20, repetitions: int
) -> dict[str, float]:
    """Measure at one size, with about 30 ratings per user and 200 candidates."""
    data = synthetic(users, items, 30 * users)
    genres = [{"genre": (str(item_index % 20),)} for item_index in range(items)]
    described = [
        replace(item, attributes=genre) for item, genre in zip(data.items, genres, strict=True)
    ]
    data = replace(data, items=tuple(described))
    index = CandidateIndex.build(data)
    recommender = build(Vocabulary.from_catalog(data), parse_backbone("compact"))
    recommender.model.eval()
    scorer = TorchScorer(recommender, SCORING_POLICY)
    request = draw_requests(data, 1, 200, seed=0)[0]
    drawn = np.random.default_rng(0).choice(items, history, replace=False).tolist()
    ratings = list(request.history)
    request = replace(request, history=(ratings * (history // len(ratings) + 1))[:history])
    events = [Event(item_index, 5.0, when) for when, item_index in enumerate(drawn)]
    first, model = [], []
    for _ in range(repetitions):
        started = time.perf_counter()
        index.propose(events, 200, excluded=drawn)
        between = time.perf_counter()
        scorer.score(replace(request, keep=False))
        first.append(between - started)
        model.append(time.perf_counter() - between)
    return {
        "users": users,
        "items": items,
        "history": history,
        "first_stage_ms": 1000 * median(first),
        "model_ms": 1000 * median(model),
    }
