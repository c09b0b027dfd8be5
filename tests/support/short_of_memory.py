"""Take one training step under an address space limit, in a process that a test starts.

Prints the memory report and the largest difference to the weights of a step without limit, as JSON.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.backbones.compact import CompactConfig
from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.training.step import memory_report, take_step
from models.training.trainer import live_margins
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from models.recommender.base import Recommender

#: Sizes that give tensors of 50 MB, which the allocator maps one by one and returns when freed.
ROWS, TOKENS = 8192, 24
CONFIG = CompactConfig(hidden_size=64, layers=1, heads=2, intermediate_size=64)
SPARE = 600 * 2**20


def address_space() -> int:
    """Return the size of this process's address space in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    torch.set_num_threads(1)
    limited = build(Vocabulary.from_catalog(tiny.DATA), CONFIG)
    unlimited = limited.with_model(copy.deepcopy(limited.model))
    generator = torch.Generator().manual_seed(0)
    prompts = PromptBatch(tokens=torch.randint(1, 40, (ROWS, TOKENS), generator=generator))
    for recommender in (limited, unlimited):
        if recommender is limited:
            limit = address_space() + SPARE
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        optimizer = torch.optim.SGD(recommender.model.parameters(), lr=1.0)
        recommender.model.train()
        loss_of = partial(_loss, recommender, prompts)
        take_step(recommender, optimizer, loss_of)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    difference = max(
        float((a - b).detach().abs().max())
        for a, b in zip(limited.model.parameters(), unlimited.model.parameters(), strict=True)
    )
    json.dump({**memory_report(limited), "apart": difference}, sys.stdout)


def _loss(recommender: Recommender, prompts: PromptBatch) -> torch.Tensor:
    return live_margins(recommender, prompts).square().mean()


if __name__ == "__main__":
    main()
