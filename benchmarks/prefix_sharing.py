"""What reading the history once saves: `python -m benchmarks.prefix_sharing --backbone hf:DIR`.

The same prompts, of real titles, are scored whole in padded batches (of whichever size is fastest)
and behind their shared prefix, by turns. In theory N prompts of h + c tokens shrink to h + N·c.
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


#: So many prompts choose the batch size.
CHOOSING: Final = 32


def prompts_of(recommender: Recommender, data: str, candidates: int, seed: int) -> PromptBatch:
    """Encode a person with ten ratings and N candidates, of titles drawn from the data."""
    items = read(data)[0].items
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(items), HISTORY_LENGTH + candidates, replace=False).tolist()
    stars = generator.integers(1, 11, HISTORY_LENGTH) / 2
    history = [
        HistoryEvent(item_index, float(rating), items[item_index].title)
        for item_index, rating in zip(drawn[:HISTORY_LENGTH], stars, strict=True)
    ]
    wanted = [
        Candidate(item_index, items[item_index].attributes, items[item_index].title)
        for item_index in drawn[HISTORY_LENGTH:]
    ]
    return recommender.prompt.request({}, history, wanted)


def timed(run: Callable[[], torch.Tensor]) -> tuple[float, float, torch.Tensor]:
    """Return seconds on the wall, seconds of the processor, and the logits."""
    wall, cpu = time.perf_counter(), time.process_time()
    logits = run()
    return time.perf_counter() - wall, time.process_time() - cpu, logits


def compare(recommender: Recommender, prompts: PromptBatch, repetitions: int) -> dict[str, Any]:
    """Score both ways by turns and return medians; the first run of each is not counted."""
    recommender.score_logits(prompts)
    few = prompts.take(slice(CHOOSING))
    sizes = {size: timed(partial(recommender.logits, few, size))[1] for size in BATCH_SIZES}
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
    """Load the model and compare.

    `ratio` is of the clock on the wall, `cpu_ratio` of the processor's time, which what else runs
    on the machine disturbs less; `share` says how much of `theory` the latter reaches.
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
    found = compare(recommender, prompts, arguments.repetitions)
    theory = (prefix + own) * count / (prefix + own * count)
    cpu_ratio = found["whole_cpu_seconds"] / found["shared_cpu_seconds"]
    return {
        "backbone": recommender.config.manifest(),
        "prompt": recommender.prompt.manifest(),
        "threads": arguments.threads,
        "candidates": count,
        "prefix_tokens": prefix,
        "candidate_tokens": own,
        **found,
        "ratio": found["whole_seconds"] / found["shared_seconds"],
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
    """Measure, print, and write what was found."""
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
    parser.add_argument("--out", type=Path, help="write the JSON document there as well")
    arguments = parser.parse_args()
    result = measure(arguments)
    document = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(document + "\n")
    print(document if arguments.json else TABLE.format(**result))


if __name__ == "__main__":
    main()
