"""Processes that train together: one model comes out, errors come home, and none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import torch

from models.backbones.compact import CompactConfig
from models.checkpoints.adapter import AdapterConfig, attach
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import build_samples
from models.data.splits import TimeSplit
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.runtime.devices import Machine, use
from models.training.distributed import TrainingProcessError, _portable, together
from models.training.step import DivergedError, memory_report
from models.training.trainer import TrainConfig, fit, fit_from
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.recommender.base import Recommender
    from models.runtime.process_group import ProcessGroup
    from models.training.trainer import Progress

VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(build_samples(tiny.DATA), train=0.6, valid=0.2)
PREPARED: Final = split_for_forgetting(tiny.DATA, ForgetIndices(), frozenset(), SPLIT)
#: The last batch has one row, so that somebody gets none.
ROWS: Final = len(PREPARED.parts.train)
RECIPE: Final = TrainConfig(
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    batch_size=(ROWS - 1) // 4,
    learning_rate=1e-3,
    validations=2,
    epochs=2,
)


class StopError(Exception):
    """What a caller raises to interrupt."""


@pytest.fixture(autouse=True)
def two() -> Iterator[None]:
    """Two processes on the CPU; whatever happens, none of them is left."""
    use(Machine(processes=2))
    yield
    use(Machine())
    assert not multiprocessing.active_children()


def ignore(fraction: float) -> None:
    """Take a fraction and do nothing."""


def assert_near(one: Recommender, other: Recommender) -> None:
    expected = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_two_processes_train_what_one_trains() -> None:
    seen: list[float] = []
    found = fit(VOCABULARY, PREPARED, RECIPE, seen.append)
    use(Machine())
    expected = fit(VOCABULARY, PREPARED, RECIPE, ignore)

    assert ROWS % RECIPE.batch_size in {1, 2, 3, 4}
    assert_near(found, expected)
    assert not torch.equal(
        next(found.model.parameters()),
        next(build(VOCABULARY, RECIPE.backbone).model.parameters()),
    )
    assert seen == sorted(seen)
    assert seen[-1] > 0
    assert not found.model.training
    assert memory_report(found)["halvings"] == 0


def test_an_adapter_on_a_language_model_is_all_that_moves(tmp_path: Path) -> None:
    """What PEFT and transformers make goes through the pipes as well."""
    base = build(VOCABULARY, tiny.save("llama", tmp_path))
    recipe = replace(RECIPE, epochs=1, batch_size=ROWS // 2, warmup_steps=1)
    adapter = AdapterConfig(rank=2, alpha=4, dropout=0.0)
    found = fit_from(attach(base, adapter, 0), PREPARED, recipe, ignore)
    use(Machine())
    expected = fit_from(attach(base, adapter, 0), PREPARED, recipe, ignore)

    assert_near(found, expected)
    start = attach(base, adapter, 0).model.state_dict()
    moved = {n for n, t in found.model.state_dict().items() if not torch.equal(t, start[n])}
    assert moved
    assert all(".lora_" in name for name in moved)


def test_an_error_of_one_comes_home() -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        fit(VOCABULARY, PREPARED, replace(RECIPE, learning_rate=1e30), ignore)


def test_whoever_asked_can_interrupt() -> None:
    """A lost lease is noticed by the progress, which is asked while nothing moves as well."""
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if seen[-3:] == [0.5] * 3:
            raise StopError

    with pytest.raises(StopError):
        together(_wait_for_ever, None, 2, stop)


def test_one_that_is_killed_ends_all_of_them() -> None:
    with pytest.raises(TrainingProcessError, match="process 1 ended by signal 9"):
        together(_die, 1, 2, ignore)


def test_errors_that_do_not_travel_say_what_they_were() -> None:
    found = _portable(_StrangeError("no", "luck"))
    assert (type(found), str(found)) == (RuntimeError, "_StrangeError: no luck")
    kept = DivergedError("the loss")
    assert _portable(kept) is kept


class _StrangeError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def _wait_for_ever(_: None, process_group: ProcessGroup, progress: Progress) -> None:
    progress(0.5)
    process_group.total(0.0)
    signal.pause()


def _die(rank: int, process_group: ProcessGroup, _: Progress) -> float:
    if process_group.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return process_group.total(1.0)  # Waits for the one that died.
