"""Measure whether deletions starve recommendations: `python -m benchmarks.starvation`.

Clients ask for recommendations while other users are forgotten at a given rate, with the scores of
a small model, once at its own speed and once delayed, as a large model would be. Every answer is
checked: it must not be refused, nor name an item of an accepted deletion.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from app.domain.catalog import Interaction
from app.domain.errors import LetheError
from app.domain.recommendations import RecommendationQuery
from app.logs import configure_logging
from app.services.forget import ForgetCommand, request_forget
from app.services.interactions import add_interactions
from app.services.secrets import load_pseudonyms
from benchmarks.installations import USERS, Installation, gateway_in_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from app.api.state import Gateway
    from app.services.pseudonyms import Pseudonyms
    from app.serving.scorers.scorer import Scorer, ScoringRequest

#: One of so many deletions is that of an item.
_DELETIONS_PER_ITEM: Final = 20


@dataclass
class DelayedScorer:
    """A scorer that takes `seconds` longer for a full tier, and less for fewer candidates."""

    inner: Scorer
    seconds: float
    tier_size: int
    candidates: list[int] = field(default_factory=list)

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        count = sum(len(request.candidates) for request in requests)
        self.candidates.append(count)
        time.sleep(self.seconds * count / self.tier_size)
        return self.inner.score_all(requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def add_people(installation: Installation, pseudonyms: Pseudonyms, number: int) -> list[str]:
    """Store users who will be forgotten, with five ratings each."""
    people = [f"v{n:05}" for n in range(number)]
    rows = [
        Interaction(
            user_id=user_id,
            item_id=installation.items[(n * 13 + step * 5) % len(installation.items)].id,
            rating=5.0,
            timestamp=2000 + step,
        )
        for n, user_id in enumerate(people)
        for step in range(5)
    ]
    with installation.uow() as uow:
        add_interactions(uow, pseudonyms, rows)
    return people


def run(rate: float, delay: float, seconds: float, clients: int) -> dict[str, Any]:
    """Return the row of one scenario, on a new installation."""
    with tempfile.TemporaryDirectory() as directory:
        installation = Installation.make(Path(directory) / "home")
        settings = installation.settings
        pseudonyms = load_pseudonyms(settings)
        people = add_people(installation, pseudonyms, int(2 * rate * seconds) + 50)
        installation.flip(*installation.publish(1))
        with gateway_in_process(settings) as gateway:
            with gateway.replica.live.capture() as loaded_model:
                scorer = DelayedScorer(loaded_model.scorer, delay, settings.candidates)
                loaded_model.scorer = scorer
            return _load(gateway, installation, people, scorer, (rate, seconds, clients))


def _load(
    gateway: Gateway,
    installation: Installation,
    people: Sequence[str],
    scorer: DelayedScorer,
    plan: tuple[float, float, int],
) -> dict[str, Any]:
    rate, seconds, clients = plan
    end = time.monotonic() + seconds
    forgotten_items: set[str] = set()
    forgets = itertools.count()
    milliseconds: list[float] = []
    refused: list[str] = []
    named: list[str] = []

    def forget() -> None:
        gaps = random.Random(1)  # noqa: S311 -- arrival times, not secrets
        for number, user_id in enumerate(people):
            time.sleep(gaps.expovariate(rate))
            if time.monotonic() > end:
                return
            round_number, place = divmod(number, _DELETIONS_PER_ITEM)
            item_id = installation.items[-1 - round_number % 40].id if place == 0 else None
            command = ForgetCommand.of(None if item_id else user_id, (), item_id)
            with gateway.uow() as uow:
                request_forget(uow, gateway.pseudonyms, gateway.settings, command)
            next(forgets)
            if item_id:
                forgotten_items.add(item_id)

    def ask(number: int) -> None:
        while time.monotonic() < end:
            accepted = set(forgotten_items)
            started = time.perf_counter()
            try:
                answer = gateway.recommender.answer(RecommendationQuery(person=USERS[number]))
            except LetheError as error:
                refused.append(type(error).__name__)
                continue
            milliseconds.append(1000 * (time.perf_counter() - started))
            named.extend(item.item_id for item in answer.items if item.item_id in accepted)

    with ThreadPoolExecutor(clients + 1) as threads:
        for future in [threads.submit(forget), *(threads.submit(ask, n) for n in range(clients))]:
            future.result()
    scorings = len(scorer.candidates)
    return {
        "forgets_per_second": rate,
        "forgets": next(forgets),
        "answers": len(milliseconds),
        "refused": len(refused),
        "forgotten_items_named": len(named),
        "scorings_per_answer": round(scorings / max(len(milliseconds), 1), 2),
        "candidates_per_answer": round(sum(scorer.candidates) / max(len(milliseconds), 1), 1),
        "p50_ms": round(median(milliseconds), 1) if milliseconds else None,
    }


def main() -> None:
    """Print one JSON row per scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="1,10,100", help="deletions per second")
    parser.add_argument("--delays", default="0,1.4", help="seconds that scoring a tier takes")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=2)
    options = parser.parse_args()
    configure_logging("WARNING")
    for delay in map(float, options.delays.split(",")):
        for rate in map(float, options.rates.split(",")):
            row = run(rate, delay, options.seconds, options.clients)
            print(json.dumps({"scorer_seconds": delay, **row}), flush=True)


if __name__ == "__main__":
    main()
