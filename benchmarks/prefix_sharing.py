"""Benchmark prefix sharing: `python -m benchmarks.prefix_sharing --backbone hf:DIR`.

The same prompts, with real titles, are scored alternately in two ways: whole, in padded batches of
the fastest size, and with their shared prefix read once. In theory, N prompts of h + c tokens cost
h + N·c tokens instead of N·(h + c).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from models.data.samples import HISTORY_LENGTH
from models.datasets.detect import read
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.templates import SHARED_PREFIX, WORDINGS
from models.prompts.text_encoding import TextPrompt
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from models.recommender.pretrained import HuggingFaceConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

BATCH_SIZES: Final = (1, 2, 4, 8, 16)
#: Number of prompts that are timed to choose the batch size.
CHOICE_PROMPTS: Final = 32


def prompts_of(recommender: Recommender, data: str, candidates: int, seed: int) -> PromptBatch:
    """Encode a user with ten ratings and N candidates; the items are drawn from the data."""
    items = read(data)[0].items
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(items), HISTORY_LENGTH + candidates, replace=False).tolist()
    stars = generator.integers(1, 11, HISTORY_LENGTH) / 2
    history = [
        HistoryEvent(item_index, float(rating), items[item_index].title)
        for item_index, rating in zip(drawn[:HISTORY_LENGTH], stars, strict=True)
    ]
    to_score = [
        Candidate(item_index, items[item_index].attributes, items[item_index].title)
        for item_index in drawn[HISTORY_LENGTH:]
    ]
    return recommender.prompt.request({}, history, to_score)


def timed(run: Callable[[], torch.Tensor]) -> tuple[float, float, torch.Tensor]:
    """Return wall-clock seconds, CPU seconds, and the logits."""
    wall, cpu = time.perf_counter(), time.process_time()
    logits = run()
    return time.perf_counter() - wall, time.process_time() - cpu, logits


def compare(recommender: Recommender, prompts: PromptBatch, repetitions: int) -> dict[str, Any]:
    """Score alternately in both ways and return medians, after one warm-up run of each."""
    recommender.score_logits(prompts)
    sample = prompts.take(slice(CHOICE_PROMPTS))
    sizes = {size: timed(partial(recommender.logits, sample, size))[1] for size in BATCH_SIZES}
    batch_size = min(sizes, key=lambda size: sizes[size])
    whole, shared = [], []
    for _ in range(repetitions):
        whole.append(timed(partial(recommender.logits, prompts, batch_size)))
        shared.append(timed(partial(recommender.score_logits, prompts)))
    return {
        "batch_size": batch_size,
        "whole_seconds": median(run[0] for run in whole),
        "shared_seconds": median(run[0] for run in shared),
        "whole_cpu_seconds": median(run[1] for run in whole),
        "shared_cpu_seconds": median(run[1] for run in shared),
        "largest_difference": (whole[-1][2] - shared[-1][2]).abs().max().item(),
        "largest_logit": whole[-1][2].abs().max().item(),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build the model and compare both ways.

    `ratio` is of wall-clock time. `cpu_ratio` is of CPU time, on which other processes have less
    influence. `share` is `cpu_ratio` divided by `theory`.
    """
    torch.set_num_threads(arguments.threads)
    config = parse_backbone(arguments.backbone)
    if isinstance(config, HuggingFaceConfig):
        config = replace(config, dtype=arguments.dtype)
    recommender = build(Vocabulary.from_catalog(read(arguments.data)[0]), config)
    if isinstance(recommender.prompt, TextPrompt):
        recommender.prompt.wording = arguments.wording
    prompts = prompts_of(recommender, arguments.data, arguments.candidates, arguments.seed)
    prefix, count = prompts.shared_length(), len(prompts)
    own = prompts.lengths.float().mean().item() - prefix
    figures = compare(recommender, prompts, arguments.repetitions)
    theory = (prefix + own) * count / (prefix + own * count)
    cpu_ratio = figures["whole_cpu_seconds"] / figures["shared_cpu_seconds"]
    return {
        "backbone": recommender.config.manifest(),
        "prompt": recommender.prompt.manifest(),
        "threads": arguments.threads,
        "candidates": count,
        "prefix_tokens": prefix,
        "candidate_tokens": own,
        **figures,
        "ratio": figures["whole_seconds"] / figures["shared_seconds"],
        "cpu_ratio": cpu_ratio,
        "theory": theory,
        "share": cpu_ratio / theory,
    }


TABLE: Final = """\
h = {prefix_tokens} tokens shared, c = {candidate_tokens:.1f} each, N = {candidates} candidates
whole   {whole_seconds:8.3f} s ({whole_cpu_seconds:.3f} s of CPU), batches of {batch_size}
shared  {shared_seconds:8.3f} s ({shared_cpu_seconds:.3f} s of CPU)
ratio   {ratio:8.2f} ({cpu_ratio:.2f} of CPU); in theory {theory:.2f}, {share:.0%} reached
largest difference of logits {largest_difference:.2g}, largest logit {largest_logit:.3g}"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--data", default="data/ml-latest-small")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--wording", default=SHARED_PREFIX, choices=list(WORDINGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, help="also write the JSON document to this file")
    arguments = parser.parse_args()
    result = measure(arguments)
    document = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(document + "\n")
    print(document if arguments.json else TABLE.format(**result))


if __name__ == "__main__":
    main()
