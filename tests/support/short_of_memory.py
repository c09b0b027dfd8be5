"""Run by a test as a process of its own: one step under a limit that the system itself keeps.

Prints the report of the memory, and how far the weights are from those of a step without limit.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
from pathlib import Path

import torch

from models.backbones.compact import CompactConfig
from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins
from tests.support import tiny_models as tiny

#: Tensors of 50 MB, which the allocator takes from the system one by one and gives back.
ROWS, TOKENS = 8192, 24
CONFIG = CompactConfig(hidden_size=64, layers=1, heads=2, intermediate_size=64)
SPARE = 600 * 2**20


def address_space() -> int:
    """Return how many bytes of addresses this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    torch.set_num_threads(1)
    recommender = build(Vocabulary.from_catalog(tiny.DATA), CONFIG)
    free = recommender.with_model(copy.deepcopy(recommender.model))
    generator = torch.Generator().manual_seed(0)
    prompts = PromptBatch(tokens=torch.randint(1, 40, (ROWS, TOKENS), generator=generator))
    for one in (recommender, free):
        if one is recommender:
            limit = address_space() + SPARE
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        optimizer = torch.optim.SGD(one.model.parameters(), lr=1.0)
        one.model.train()
        take_step(one, optimizer, lambda one=one: live_margins(one, prompts).square().mean())
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    apart = max(
        float((a - b).detach().abs().max())
        for a, b in zip(recommender.model.parameters(), free.model.parameters(), strict=True)
    )
    json.dump({**memory_report(recommender), "apart": apart}, sys.stdout)


if __name__ == "__main__":
    main()
