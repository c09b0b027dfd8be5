"""A tiny language model, as a release would bring it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from models.assembly import build, parse_backbone
from models.text_encoding import TextPrompt
from models.vocabulary import Vocabulary
from models.wording import SHARED_PREFIX
from tests.unit.models import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.recommender import Recommender


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    tiny.save("llama", directory)
    return directory


@pytest.fixture
def recommender(source: Path) -> Recommender:
    config = parse_backbone(f"hf:{source}")
    made = build(Vocabulary.from_catalogue(tiny.DATA), config)
    made.prompt = TextPrompt(tiny.byte_pairs(), closed=False, limit=None, wording=SHARED_PREFIX)
    return made
