"""Benchmark scoring in this process against slower methods, alternating in one run.

    python -m benchmarks.scoring --threads 8 64 --out scoring.json

- `naive`: one `transformers` forward pass per candidate, like the paper's code
- `padded`: the same prompts in one padded batch
- `reuse`: reads the history once and copies its cache for every candidate
- `reader`, `kept`: the code that serving runs, without and with cached states of the history
- `scored`, `scored_kept`: whole calls of the scorer, including tokenization
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from app.serving.scorers.scorer import ScoringRequest
from app.serving.scorers.torch_scorer import ScoringPolicy, TorchScorer
from models.data.samples import HISTORY_LENGTH
from models.datasets.detect import read
from models.prompts.compact_prompt import CompactPrompt
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from models.data.interactions import Interactions
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

SCORING_POLICY: Final = ScoringPolicy(prefix_cache_bytes=2**28, step_tokens=256, steps_at_once=2)
#: Side of the square matrices whose product measures the machine's peak speed.
PEAK_SIDE: Final = 1024
#: Requests per thread in a measurement of throughput.
REQUESTS_PER_THREAD: Final = 12


def draw_requests(
    data: Interactions, users: int, candidates: int, seed: int
) -> list[ScoringRequest]:
    """Return requests of users with ten ratings each, for items drawn from the data."""
    generator, requests = np.random.default_rng(seed), []
    for user in range(users):
        drawn = generator.choice(len(data.items), HISTORY_LENGTH + candidates, replace=False)
        stars = generator.integers(1, 11, HISTORY_LENGTH) / 2
        rated, to_score = drawn[:HISTORY_LENGTH].tolist(), drawn[HISTORY_LENGTH:].tolist()
        requests.append(
            ScoringRequest(
                user_id=f"user {user}",
                attributes={},
                history=[
                    HistoryEvent(item_index, star, data.items[item_index].title)
                    for item_index, star in zip(rated, stars.tolist(), strict=True)
                ],
                candidates=[
                    Candidate(
                        item_index, data.items[item_index].attributes, data.items[item_index].title
                    )
                    for item_index in to_score
                ],
            )
        )
    return requests


@torch.inference_mode()
def naive(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [N, 2] logits of N forward passes; the head is computed for the last token only."""
    logits = [
        recommender.model(input_ids=row[None], logits_to_keep=1).logits[0, -1]
        for row in prompts.token_rows(0)
    ]
    return torch.stack(logits)[:, list(recommender.prompt.answers)]


def scoring_methods(
    recommender: Recommender, scorer: TorchScorer, request: ScoringRequest
) -> dict[str, Callable[[], Any]]:
    """Return the functions to time, by name."""
    prompts = recommender.prompt.request(request.attributes, request.history, request.candidates)
    shared, reader = prompts.shared_length(), recommender.reader()
    square = torch.randn(PEAK_SIDE, PEAK_SIDE)
    methods: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive(recommender, prompts),
        "padded": lambda: recommender.logits(prompts, len(prompts)),
        "reuse": lambda: recommender.score_logits(prompts),
        "scored": lambda: scorer.score(replace(request, keep=False)),
        "scored_kept": lambda: scorer.score(request),
        "peak": lambda: square @ square,
        "request": lambda: recommender.prompt.request(
            request.attributes, request.history, request.candidates
        ),
    }
    if isinstance(recommender.prompt, CompactPrompt):
        methods["first_request"] = lambda: CompactPrompt(recommender.vocabulary).request(
            request.attributes, request.history, request.candidates
        )
    if reader is not None:
        kept_prefix = reader.encode_prefixes([prompts.tokens[0, :shared]])[0]

        def read(*, prefix: bool) -> torch.Tensor:
            state = (
                reader.encode_prefixes([prompts.tokens[0, :shared]])[0] if prefix else kept_prefix
            )
            return torch.cat([reader.answer([row])[0] for row in reader.rows(state, prompts)])

        methods |= {"reader": lambda: read(prefix=True), "kept": lambda: read(prefix=False)}
    return methods


def timed(work: Callable[[], Any]) -> float:
    """Return the milliseconds of one call."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def compare(methods: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Return median milliseconds of each method, timed in turn after one warm-up round."""
    durations: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(repetitions + 1):
        for name, work in methods.items():
            # Short calls are repeated, because the call before them affects the caches.
            calls = [timed(work) for _ in range(1 if name == "naive" else 5)]
            if repetition:
                durations[name].append(median(calls))
    return {name: median(values) for name, values in durations.items()}


def throughput(
    recommender: Recommender,
    requests: Sequence[ScoringRequest],
    threads: int,
    policy: ScoringPolicy,
) -> float:
    """Return requests per second with `threads` concurrent callers and no cached histories."""
    scorer = TorchScorer(recommender, policy)
    work = [
        replace(requests[n % len(requests)], keep=False)
        for n in range(threads * REQUESTS_PER_THREAD)
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(scorer.score, work[:threads]))
        started = time.perf_counter()
        list(pool.map(scorer.score, work))
        return len(work) / (time.perf_counter() - started)


def concurrent(
    recommender: Recommender, requests: Sequence[ScoringRequest], threads: int
) -> dict[str, float]:
    """Return the throughput with one and with two concurrent steps."""
    return {
        "one_step": throughput(
            recommender, requests, threads, replace(SCORING_POLICY, steps_at_once=1)
        ),
        "two_steps": throughput(recommender, requests, threads, SCORING_POLICY),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a model with random weights, whose speed is that of trained weights."""
    torch.set_num_threads(1)
    data = read(arguments.data)[0]
    recommender = build(Vocabulary.from_catalog(data), parse_backbone(arguments.backbone))
    recommender.model.eval()
    requests = draw_requests(data, 16, arguments.candidates, arguments.seed)
    return measure_recommender(recommender, requests, arguments.repetitions, arguments.threads)


def measure_recommender(
    recommender: Recommender,
    requests: Sequence[ScoringRequest],
    repetitions: int,
    threads: Sequence[int] = (),
) -> dict[str, Any]:
    """Return all figures of one model; the methods are compared on the first request."""
    scorer, first = TorchScorer(recommender, SCORING_POLICY), requests[0]
    medians = compare(scoring_methods(recommender, scorer, first), repetitions)
    prompts = recommender.prompt.request(first.attributes, first.history, first.candidates)
    h, own = (
        prompts.shared_length(),
        float(prompts.lengths.float().mean()) - prompts.shared_length(),
    )
    layers = recommender.model.get_decoder().layers  # type: ignore[operator] # of transformers
    parameters = sum(weight.numel() for weight in layers.parameters() if weight.ndim > 1)
    useful = 2 * parameters * (h + len(prompts) * own)
    peak = 2 * PEAK_SIDE**3 / (medians.pop("peak") / 1000)
    best = medians.get("reader", medians["scored"])
    expected = naive(recommender, prompts).softmax(1)[:, 0].numpy()
    return {
        "backbone": recommender.config.manifest(),
        "vocabulary": recommender.vocabulary.size,
        "candidates": len(prompts),
        "prefix_tokens": h,
        "candidate_tokens": own,
        "theory": (h + own) * len(prompts) / (h + own * len(prompts)),
        "milliseconds": medians,
        "ratios": {
            name: {
                other: medians[name] / medians[other] for other in medians if "request" not in other
            }
            for name in ("naive", "padded")
        },
        "largest_difference": float(np.abs(scorer.score(first) - expected).max()),
        "peak_flops": peak,
        "useful_flops": useful,
        "flops_share": useful / (best / 1000) / peak,
        "requests_per_second": {
            str(count): concurrent(recommender, requests, count) for count in threads
        },
    }


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as lines of text."""
    h, c, count = (figures[name] for name in ("prefix_tokens", "candidate_tokens", "candidates"))
    medians = figures["milliseconds"]
    lines = [
        f"h = {h}, c = {c:.1f}, N = {count}; in theory {figures['theory']:.2f} x padded",
        f"{'':14}{'ms':>10}{'naive/':>10}{'padded/':>10}",
    ]
    lines += [
        f"{name:14}{value:10.3f}{medians['naive'] / value:10.1f}{medians['padded'] / value:10.1f}"
        for name, value in medians.items()
    ]
    lines.append(
        f"useful work at {figures['flops_share']:.0%} of {figures['peak_flops'] / 1e9:.0f} GFLOP/s"
    )
    for threads, rates in figures["requests_per_second"].items():
        text = ", ".join(f"{name} {rate:.0f}/s" for name, rate in rates.items())
        lines.append(f"{threads} threads: {text}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--data", default="data/ml-latest-small")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, help="also write the JSON document to this file")
    arguments = parser.parse_args()
    figures = measure(arguments)
    document = json.dumps(figures, indent=1)
    if arguments.out:
        arguments.out.write_text(document + "\n", encoding="utf-8")
    print(document if arguments.json else table(figures))


if __name__ == "__main__":
    main()
