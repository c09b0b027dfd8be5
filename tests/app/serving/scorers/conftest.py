"""Fixtures: a tiny language model with the prompts of a release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from models.prompts.templates import SHARED_PREFIX
from models.prompts.text_encoding import TextPrompt
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.recommender.base import Recommender


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    tiny.save("llama", directory)
    return directory


@pytest.fixture
def recommender(source: Path) -> Recommender:
    config = parse_backbone(f"hf:{source}")
    recommender = build(Vocabulary.from_catalog(tiny.DATA), config)
    recommender.prompt = TextPrompt(
        tiny.byte_pairs(), keep_end_token=False, limit=None, wording=SHARED_PREFIX
    )
    return recommender
