"""How fast candidates are scored in this process, against slower ways, in one run by turns.

    python -m benchmarks.scoring --threads 8 64 --out scoring.json

`naive` is one forward pass per candidate through `transformers`, as the paper's code scores;
`padded` the same prompts in one padded batch; `reuse` reads the history once and copies its cache
for every candidate; `reader` is what serving does, and `kept` the same for a history whose states
are kept. `scored` and `scored_kept` are whole calls of the scorer with the prompt's tokens made.
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

POLICY: Final = ScoringPolicy(prefix_cache_bytes=2**28, step_tokens=256, steps_at_once=2)
#: Side of the matrices whose product says what the machine can do at most.
PEAK_SIDE: Final = 1024
#: Requests of each thread in a measurement of throughput.
EACH: Final = 12


def requests(data: Interactions, people: int, candidates: int, seed: int) -> list[ScoringRequest]:
    """Return requests of people with ten ratings each, for items drawn from the data."""
    generator, found = np.random.default_rng(seed), []
    for person in range(people):
        drawn = generator.choice(len(data.items), HISTORY_LENGTH + candidates, replace=False)
        stars = generator.integers(1, 11, HISTORY_LENGTH) / 2
        rated, wanted = drawn[:HISTORY_LENGTH].tolist(), drawn[HISTORY_LENGTH:].tolist()
        found.append(
            ScoringRequest(
                user_id=f"user {person}",
                attributes={},
                history=[
                    HistoryEvent(item_index, star, data.items[item_index].title)
                    for item_index, star in zip(rated, stars.tolist(), strict=True)
                ],
                candidates=[
                    Candidate(
                        item_index, data.items[item_index].attributes, data.items[item_index].title
                    )
                    for item_index in wanted
                ],
            )
        )
    return found


@torch.inference_mode()
def naive(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    """Return [N, 2] logits, one forward pass each; the head is computed for the last token only."""
    found = [
        recommender.model(input_ids=row[None], logits_to_keep=1).logits[0, -1]
        for row in prompts.token_rows(0)
    ]
    return torch.stack(found)[:, list(recommender.prompt.answers)]


def ways(
    recommender: Recommender, scorer: TorchScorer, request: ScoringRequest
) -> dict[str, Callable[[], Any]]:
    """Return what is timed by turns, by name."""
    prompts = recommender.prompt.request(request.attributes, request.history, request.candidates)
    shared, reader = prompts.shared_length(), recommender.reader()
    square = torch.randn(PEAK_SIDE, PEAK_SIDE)
    found: dict[str, Callable[[], Any]] = {
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
        found["first_request"] = lambda: CompactPrompt(recommender.vocabulary).request(
            request.attributes, request.history, request.candidates
        )
    if reader is not None:
        kept = reader.encode_prefixes([prompts.tokens[0, :shared]])[0]

        def read(*, prefix: bool) -> torch.Tensor:
            known = reader.encode_prefixes([prompts.tokens[0, :shared]])[0] if prefix else kept
            return torch.cat([reader.answer([row])[0] for row in reader.rows(known, prompts)])

        found |= {"reader": lambda: read(prefix=True), "kept": lambda: read(prefix=False)}
    return found


def timed(work: Callable[[], Any]) -> float:
    """Return milliseconds."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def compare(all_ways: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Return median milliseconds of each way, tried by turns; first tries are not counted."""
    spent: dict[str, list[float]] = {name: [] for name in all_ways}
    for repetition in range(repetitions + 1):
        for name, work in all_ways.items():
            # What is short is measured more often, and disturbed by what came just before.
            again = [timed(work) for _ in range(1 if name == "naive" else 5)]
            if repetition:
                spent[name].append(median(again))
    return {name: median(each) for name, each in spent.items()}


def throughput(
    recommender: Recommender, asked: Sequence[ScoringRequest], threads: int, policy: ScoringPolicy
) -> float:
    """Return requests per second that so many threads get answered, histories not kept."""
    scorer = TorchScorer(recommender, policy)
    work = [replace(asked[n % len(asked)], keep=False) for n in range(threads * EACH)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(scorer.score, work[:threads]))
        began = time.perf_counter()
        list(pool.map(scorer.score, work))
        return len(work) / (time.perf_counter() - began)


def concurrent(
    recommender: Recommender, asked: Sequence[ScoringRequest], threads: int
) -> dict[str, float]:
    """Return throughput with one and with two steps at once."""
    return {
        "one_step": throughput(recommender, asked, threads, replace(POLICY, steps_at_once=1)),
        "two_steps": throughput(recommender, asked, threads, POLICY),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build the model with random weights, which take as long as others, and measure."""
    torch.set_num_threads(1)
    data = read(arguments.data)[0]
    recommender = build(Vocabulary.from_catalog(data), parse_backbone(arguments.backbone))
    recommender.model.eval()
    asked = requests(data, 16, arguments.candidates, arguments.seed)
    return measured(recommender, asked, arguments.repetitions, arguments.threads)


def measured(
    recommender: Recommender,
    asked: Sequence[ScoringRequest],
    repetitions: int,
    threads: Sequence[int] = (),
) -> dict[str, Any]:
    """Return all that is measured of one model, the first request standing for all."""
    scorer, first = TorchScorer(recommender, POLICY), asked[0]
    found = compare(ways(recommender, scorer, first), repetitions)
    prompts = recommender.prompt.request(first.attributes, first.history, first.candidates)
    h, own = (
        prompts.shared_length(),
        float(prompts.lengths.float().mean()) - prompts.shared_length(),
    )
    layers = recommender.model.get_decoder().layers  # type: ignore[operator] # of transformers
    parameters = sum(one.numel() for one in layers.parameters() if one.ndim > 1)
    useful = 2 * parameters * (h + len(prompts) * own)
    peak = 2 * PEAK_SIDE**3 / (found.pop("peak") / 1000)
    best = found.get("reader", found["scored"])
    expected = naive(recommender, prompts).softmax(1)[:, 0].numpy()
    return {
        "backbone": recommender.config.manifest(),
        "vocabulary": recommender.vocabulary.size,
        "candidates": len(prompts),
        "prefix_tokens": h,
        "candidate_tokens": own,
        "theory": (h + own) * len(prompts) / (h + own * len(prompts)),
        "milliseconds": found,
        "ratios": {
            name: {way: found[name] / found[way] for way in found if "request" not in way}
            for name in ("naive", "padded")
        },
        "largest_difference": float(np.abs(scorer.score(first) - expected).max()),
        "peak_flops": peak,
        "useful_flops": useful,
        "flops_share": useful / (best / 1000) / peak,
        "requests_per_second": {
            str(each): concurrent(recommender, asked, each) for each in threads
        },
    }


def table(found: Mapping[str, Any]) -> str:
    """Return what was found as lines of text."""
    h, c, count = (found[name] for name in ("prefix_tokens", "candidate_tokens", "candidates"))
    spent = found["milliseconds"]
    lines = [
        f"h = {h}, c = {c:.1f}, N = {count}; in theory {found['theory']:.2f} x padded",
        f"{'':14}{'ms':>10}{'naive/':>10}{'padded/':>10}",
    ]
    lines += [
        f"{name:14}{each:10.3f}{spent['naive'] / each:10.1f}{spent['padded'] / each:10.1f}"
        for name, each in spent.items()
    ]
    lines.append(
        f"useful work at {found['flops_share']:.0%} of {found['peak_flops'] / 1e9:.0f} GFLOP/s"
    )
    for threads, rates in found["requests_per_second"].items():
        each = ", ".join(f"{name} {rate:.0f}/s" for name, rate in rates.items())
        lines.append(f"{threads} threads: {each}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--data", default="data/ml-latest-small")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, help="write the JSON document there as well")
    arguments = parser.parse_args()
    found = measure(arguments)
    document = json.dumps(found, indent=1)
    if arguments.out:
        arguments.out.write_text(document + "\n", encoding="utf-8")
    print(document if arguments.json else table(found))


if __name__ == "__main__":
    main()
