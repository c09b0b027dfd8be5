"""Running out of memory: the same step in smaller parts, said aloud, until none is left."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import pytest
import torch

from models.backbones.compact import CompactConfig
from models.data.forget_split import ForgetIndices, prepare
from models.data.samples import build_samples
from models.data.splits import TimeSplit
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.runtime.memory import (
    Memory,
    OutOfMemoryError,
    attempt,
    checkpoint_layers,
    free_memory,
)
from models.training.step import DivergedError, memory_report, take_step
from models.training.trainer import TrainConfig, fit_from
from models.unlearning.base import UnlearningTask
from models.unlearning.e2urec import E2URec, E2URecConfig
from models.unlearning.finetuning import LoopConfig
from models.unlearning.npo import Npo, NpoConfig
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.backbones.compact import BackboneConfig
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SAMPLES: Final = build_samples(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(SAMPLES, train=0.6, valid=0.2)
PREPARED: Final = prepare(tiny.DATA, ForgetIndices(), frozenset(), SPLIT)
RECIPE: Final = TrainConfig(batch_size=32, warmup_steps=3, validations=1, learning_rate=1e-3)
#: What a machine without memory says, on a GPU and on a CPU.
ERRORS: Final = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError(),
)
#: T5 looks up distances as well: they are no prompts.
BUCKETS: Final = 32
KINDS: Final = ("compact", "compact-t5", "llama", "gpt2", "t5")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneConfig]:
    made = {kind: tiny.save(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    made["compact"] = CompactConfig(hidden_size=16, layers=2, heads=2, intermediate_size=32)
    return made


def fresh(config: BackboneConfig) -> Recommender:
    """Return a recommender without dropout: repeated steps draw again."""
    recommender = build(VOCABULARY, config)
    for module in recommender.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return recommender


class Small:
    """A machine on which no model reads more than `rows` prompts at once, while it is entered."""

    def __init__(self, rows: int, error: Exception = ERRORS[0], *, training: bool = False) -> None:
        self.rows, self.error, self.training = rows, error, training
        self.most, self.failures = 0, 0

    def __enter__(self) -> Self:
        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _look(self, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if not isinstance(module, torch.nn.Embedding) or module.num_embeddings <= BUCKETS:
            return
        if self.training and not torch.is_grad_enabled():
            return
        if len(given[0]) > self.rows:
            self.failures += 1
            raise self.error
        self.most = max(self.most, len(given[0]))


def weights(recommender: Recommender) -> dict[str, torch.Tensor]:
    return recommender.model.state_dict()


def assert_same(one: Recommender, other: Recommender) -> None:
    """Nearly all weights are the same, and so are the answers.

    Not quite all: AdamW takes a whole step along a gradient that is nothing but rounding, as that
    of GPT-2's key biases.
    """
    expected = weights(other)
    near = [
        torch.isclose(tensor, expected[name], atol=2e-5, rtol=1e-4).flatten()
        for name, tensor in weights(one).items()
    ]
    assert torch.cat(near).float().mean() > 0.99
    torch.testing.assert_close(
        one.logits(some(one)), other.logits(some(other)), atol=2e-3, rtol=1e-3
    )


def some(recommender: Recommender, count: int = 12) -> PromptBatch:
    return recommender.prompt.samples(SAMPLES.take(np.arange(count) * 5), tiny.DATA)


@pytest.mark.parametrize(
    ("kind", "error"),
    [*((kind, ERRORS[0]) for kind in KINDS), *(("compact", error) for error in ERRORS[1:])],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_training_that_ran_out_of_memory_ends_where_any_would(
    sources: dict[str, BackboneConfig], kind: str, error: Exception
) -> None:
    expected = fit_from(fresh(sources[kind]), PREPARED, RECIPE, lambda _: None)

    with Small(5, error) as machine:
        found = fit_from(fresh(sources[kind]), PREPARED, RECIPE, lambda _: None)

    assert machine.most <= 5
    assert machine.failures
    assert_same(found, expected)
    assert memory_report(found) == {"micro_batch": 4, "halvings": 3, "checkpointed": True}
    assert memory_report(expected) == {"micro_batch": None, "halvings": 0, "checkpointed": False}


def test_it_says_so_without_saying_of_whom(
    sources: dict[str, BackboneConfig], caplog: pytest.LogCaptureFixture
) -> None:
    with Small(16):
        fit_from(fresh(sources["llama"]), PREPARED, RECIPE, lambda _: None)

    assert caplog.messages == [
        "out of memory: the activations of layers are computed again from now on",
        "out of memory: a batch of 32 goes on 16 at a time",
    ]


@every_kind
def test_parts_have_the_gradients_of_the_whole(
    sources: dict[str, BackboneConfig], kind: str
) -> None:
    """Also with dropout: what is computed again drops the same."""
    recommender = build(VOCABULARY, sources[kind])
    recommender.model.train()
    prompts = some(recommender)

    def gradients() -> list[torch.Tensor]:
        recommender.model.zero_grad()
        torch.manual_seed(3)
        logits = recommender.live_logits(prompts)
        (logits[:, 0] - logits[:, 1]).square().sum().backward()
        return [p.grad.clone() for p in recommender.model.parameters() if p.grad is not None]

    recommender.memory.rows = 5
    in_parts = gradients()
    torch.manual_seed(3)
    by_hand = [recommender.answer_logits(prompts.take(slice(s, s + 5))) for s in (0, 5, 10)]
    recommender.model.zero_grad()
    logits = torch.cat(by_hand)
    (logits[:, 0] - logits[:, 1]).square().sum().backward()
    expected = [p.grad for p in recommender.model.parameters() if p.grad is not None]

    assert len(in_parts) == len(expected)
    for one, other in zip(in_parts, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@every_kind
def test_recomputed_layers_have_the_same_gradients(
    sources: dict[str, BackboneConfig], kind: str
) -> None:
    recommender = fresh(sources[kind])
    again = recommender.with_model(copy.deepcopy(recommender.model))
    assert checkpoint_layers(again.model)
    assert not checkpoint_layers(again.model)
    for each in (recommender, again):
        each.model.train()
        each.live_logits(some(each)).square().sum().backward()

    for one, other in zip(recommender.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)


@every_kind
def test_reading_halves_as_well(
    sources: dict[str, BackboneConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All twelve prompts in one batch at first.
    monkeypatch.setattr("models.recommender.base.BATCH_TOKENS_ON_CPU", 1_000_000)
    recommender = fresh(sources[kind])
    prompts = some(recommender)
    expected = recommender.logits(prompts)

    with Small(5) as machine:
        found = recommender.logits(prompts)

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert machine.failures == 2  # Of twelve and of six; the rest goes as the first three went.


def test_where_no_row_fits_it_says_what_to_do(sources: dict[str, BackboneConfig]) -> None:
    recommender = fresh(sources["llama"])
    with Small(0), pytest.raises(OutOfMemoryError, match="choose a smaller backbone"):
        fit_from(recommender, PREPARED, RECIPE, lambda _: None)
    with Small(0), pytest.raises(OutOfMemoryError, match="Give the worker more"):
        recommender.logits(some(recommender))
    assert recommender.memory.rows == 1


@pytest.mark.parametrize(
    "method",
    [
        E2URec(E2URecConfig(augment_steps=3, joint_steps=3)),
        Npo(NpoConfig(loop=LoopConfig(batch_size=8, steps=4))),
    ],
    ids=lambda method: method.name,
)
def test_unlearning_goes_on_and_reports_it(
    sources: dict[str, BackboneConfig], method: E2URec | Npo
) -> None:
    if isinstance(method, E2URec):
        adapter = replace(method.config.adapter, dropout=0.0)
        method = E2URec(replace(method.config, adapter=adapter))
    task = UnlearningTask(
        recommender=fresh(sources["llama"]),
        prepared=prepare(tiny.DATA, ForgetIndices(users=frozenset({2})), frozenset(), SPLIT),
        expected={},
        recipe=RECIPE,
    )
    expected = method.unlearn(task, lambda _: None)

    with Small(3, training=True):
        found = method.unlearn(task, lambda _: None)

    assert_same(found.recommender, expected.recommender)
    assert found.metrics["micro_batch"] <= 3
    assert found.metrics["halvings"] >= 2
    assert expected.metrics["halvings"] == 0


@pytest.fixture
def step(sources: dict[str, BackboneConfig]) -> Callable[[object], None]:
    """Take a step whose loss is that of the prompts, or raises."""
    recommender = fresh(sources["compact"])
    optimizer = torch.optim.AdamW(recommender.model.parameters())

    def take(outcome: object) -> None:
        def loss() -> torch.Tensor:
            if isinstance(outcome, Exception):
                raise outcome
            return recommender.live_logits(some(recommender)).sum() * outcome

        before = copy.deepcopy(weights(recommender))
        try:
            take_step(recommender, optimizer, loss)
        finally:
            if outcome != 1.0:
                after = weights(recommender)
                assert all(torch.equal(after[name], held) for name, held in before.items())

    return take


def test_other_errors_are_no_lack_of_memory(step: Callable[[object], None]) -> None:
    step(1.0)
    with pytest.raises(DivergedError):
        step(float("nan"))
    for error in (RuntimeError("shapes differ"), ValueError("CUDA out of memory. No, a value")):
        with pytest.raises(type(error), match=str(error)):
            step(error)


def test_what_cannot_be_split_is_not_tried_for_ever(sources: dict[str, BackboneConfig]) -> None:
    """A loss that no prompts are read for has nothing to halve."""
    recommender = fresh(sources["compact"])
    checkpoint_layers(recommender.model)
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    tried = []

    def loss() -> torch.Tensor:
        tried.append(1)
        raise MemoryError

    with pytest.raises(OutOfMemoryError):
        take_step(recommender, optimizer, loss)
    assert len(tried) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps this limit")
def test_it_goes_on_where_the_system_gives_no_more() -> None:
    """No error is injected here: a process of its own has less address space than its batch."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.support.short_of_memory"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=200,
        check=True,
    )

    report = json.loads(found.stdout)
    assert report["halvings"] >= 1
    assert report["apart"] < 1e-5
    assert b"out of memory: a batch of 8192 goes on 4096 at a time" in found.stderr


@every_kind
def test_a_cpu_is_asked_before_it_is_full(
    sources: dict[str, BackboneConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing is refused: the system would end the process."""
    whole = fresh(sources[kind])
    prompts = some(whole)
    whole.model.train()
    whole.live_logits(prompts)
    assert whole.memory.rows is None
    held = free_memory() // 3 // whole.memory.tokens * int(prompts.lengths.max())

    monkeypatch.setattr("models.runtime.memory.free_memory", lambda: 3 * 5 * held)
    recommender = fresh(sources[kind])
    recommender.model.train()
    with Small(6) as machine:
        found = recommender.live_logits(prompts)

    assert 3 <= recommender.memory.rows <= 6
    assert machine.failures == 0
    torch.testing.assert_close(found, whole.answer_logits(prompts), atol=1e-4, rtol=1e-4)


def test_a_container_may_have_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.runtime.memory._CONTAINER", tmp_path)
    machine = free_memory()
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > machine / 2
    (tmp_path / "memory.max").write_text("1500\n")
    assert free_memory() == 500
    (tmp_path / "memory.max").write_text("900\n")
    assert free_memory() == 0


def test_an_attempt_lets_go_of_what_failed() -> None:
    held: list[torch.Tensor] = []

    class Held(torch.Tensor):
        def __del__(self) -> None:
            held.append(torch.empty(0))

    def action() -> None:
        big = torch.ones(3).as_subclass(Held)  # noqa: F841 -- alive while the error travels
        raise MemoryError

    assert attempt(action) is None
    assert held


def test_a_halved_batch_may_shrink_again() -> None:
    memory = Memory(rows=8, asked=5)
    memory.halve()
    assert (memory.rows, memory.halvings) == (2, 1)
