"""One planted world and one recommender trained on it, shared by all tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.unit.models.planted import World, make_world

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world(one_thread: None) -> World:  # noqa: ARG001 -- training must come after it
    return make_world()
