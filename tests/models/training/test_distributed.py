"""Test training in several processes: same model, errors raised, no process left running."""

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
from models.training.distributed import TrainingProcessError, _portable, run_in_processes
from models.training.step import DivergedError, memory_report
from models.training.trainer import TrainConfig, fit, fit_from
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.recommender.base import Recommender
    from models.runtime.process_group import ProcessGroup
    from models.runtime.progress import Progress

pytestmark = pytest.mark.slow

VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(build_samples(tiny.DATA), train=0.6, valid=0.2)
DATA_SPLIT: Final = split_for_forgetting(tiny.DATA, ForgetIndices(), frozenset(), SPLIT)
#: The last batch has so few rows that a process can get none.
ROWS: Final = len(DATA_SPLIT.parts.train)
RECIPE: Final = TrainConfig(
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    batch_size=(ROWS - 1) // 4,
    learning_rate=1e-3,
    validations=2,
    epochs=2,
)


class StopError(Exception):
    """Raised by a progress callback to interrupt."""


@pytest.fixture(autouse=True)
def two_processes() -> Iterator[None]:
    """Train in two processes on the CPU, and check that no process is left running."""
    use(Machine(processes=2))
    yield
    use(Machine())
    assert not multiprocessing.active_children()


def ignore(fraction: float) -> None:
    """Ignore the progress."""


def assert_near(actual: Recommender, expected: Recommender) -> None:
    weights = expected.model.state_dict()
    for name, tensor in actual.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=1e-4)


def test_two_processes_train_the_model_of_one_process() -> None:
    seen: list[float] = []
    trained = fit(VOCABULARY, DATA_SPLIT, RECIPE, seen.append)
    use(Machine())
    expected = fit(VOCABULARY, DATA_SPLIT, RECIPE, ignore)

    assert ROWS % RECIPE.batch_size in {1, 2, 3, 4}
    assert_near(trained, expected)
    assert not torch.equal(
        next(trained.model.parameters()),
        next(build(VOCABULARY, RECIPE.backbone).model.parameters()),
    )
    assert seen == sorted(seen)
    assert seen[-1] > 0
    assert not trained.model.training
    assert memory_report(trained)["halvings"] == 0


def test_language_model_changes_only_its_adapter(tmp_path: Path) -> None:
    """PEFT and transformers models can be pickled for the processes."""
    base = build(VOCABULARY, tiny.save("llama", tmp_path))
    recipe = replace(RECIPE, epochs=1, batch_size=ROWS // 2, warmup_steps=1)
    adapter = AdapterConfig(rank=2, alpha=4, dropout=0.0)
    trained = fit_from(attach(base, adapter, 0), DATA_SPLIT, recipe, ignore)
    use(Machine())
    expected = fit_from(attach(base, adapter, 0), DATA_SPLIT, recipe, ignore)

    assert_near(trained, expected)
    start = attach(base, adapter, 0).model.state_dict()
    moved = {n for n, t in trained.model.state_dict().items() if not torch.equal(t, start[n])}
    assert moved
    assert all(".lora_" in name for name in moved)


def test_an_error_in_a_process_is_raised() -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        fit(VOCABULARY, DATA_SPLIT, replace(RECIPE, learning_rate=1e30), ignore)


def test_the_callback_can_interrupt_waiting_processes() -> None:
    """The callback notices a lost lease, also while the fraction does not change."""
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if seen[-3:] == [0.5] * 3:
            raise StopError

    with pytest.raises(StopError):
        run_in_processes(_wait_forever, None, 2, stop)


def test_a_killed_process_ends_all_processes() -> None:
    with pytest.raises(TrainingProcessError, match="process 1 ended by signal 9"):
        run_in_processes(_die, 1, 2, ignore)


def test_an_error_that_cannot_be_pickled_becomes_a_runtime_error() -> None:
    replacement = _portable(_StrangeError("no", "luck"))
    assert (type(replacement), str(replacement)) == (RuntimeError, "_StrangeError: no luck")
    error = DivergedError("the loss")
    assert _portable(error) is error


class _StrangeError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def _wait_forever(_: None, process_group: ProcessGroup, progress: Progress) -> None:
    progress(0.5)
    process_group.total(0.0)
    signal.pause()


def _die(rank: int, process_group: ProcessGroup, _: Progress) -> float:
    if process_group.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return process_group.total(1.0)  # Waits for the process that died.
