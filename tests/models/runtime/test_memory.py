"""Tests of training, unlearning and inference when memory runs out."""

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
from models.data.forget_split import ForgetIndices, split_for_forgetting
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

pytestmark = pytest.mark.slow

VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SAMPLES: Final = build_samples(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(SAMPLES, train=0.6, valid=0.2)
DATA_SPLIT: Final = split_for_forgetting(tiny.DATA, ForgetIndices(), frozenset(), SPLIT)
RECIPE: Final = TrainConfig(batch_size=32, warmup_steps=3, validations=1, learning_rate=1e-3)
#: The errors that a full GPU and a full CPU raise.
ERRORS: Final = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError(),
)
#: T5 also looks up relative distances in an embedding; those inputs are not prompts.
DISTANCE_BUCKETS: Final = 32
KINDS: Final = ("compact", "compact-t5", "llama", "gpt2", "t5")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneConfig]:
    configs = {kind: tiny.save(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    configs["compact"] = CompactConfig(hidden_size=16, layers=2, heads=2, intermediate_size=32)
    return configs


def fresh(config: BackboneConfig) -> Recommender:
    """Return a recommender without dropout, because a repeated step draws another dropout mask."""
    recommender = build(VOCABULARY, config)
    for module in recommender.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return recommender


class LimitedMemory:
    """Raise `error` inside the block when a model reads more than `rows` prompts at once."""

    def __init__(self, rows: int, error: Exception = ERRORS[0], *, training: bool = False) -> None:
        self.rows, self.error, self.training = rows, error, training
        self.largest, self.failures = 0, 0

    def __enter__(self) -> Self:
        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(self._check)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _check(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not isinstance(module, torch.nn.Embedding) or module.num_embeddings <= DISTANCE_BUCKETS:
            return
        if self.training and not torch.is_grad_enabled():
            return
        if len(inputs[0]) > self.rows:
            self.failures += 1
            raise self.error
        self.largest = max(self.largest, len(inputs[0]))


def weights(recommender: Recommender) -> dict[str, torch.Tensor]:
    return recommender.model.state_dict()


def assert_same(actual: Recommender, other: Recommender) -> None:
    """Check that at least 99 % of the weights and all logits are nearly equal.

    A few weights may differ, because AdamW takes a full step along a gradient that consists of
    rounding errors only, as for GPT-2's key biases.
    """
    expected = weights(other)
    near = [
        torch.isclose(tensor, expected[name], atol=2e-5, rtol=1e-4).flatten()
        for name, tensor in weights(actual).items()
    ]
    assert torch.cat(near).float().mean() > 0.99
    torch.testing.assert_close(
        actual.logits(some_prompts(actual)), other.logits(some_prompts(other)), atol=2e-3, rtol=1e-3
    )


def some_prompts(recommender: Recommender, count: int = 12) -> PromptBatch:
    return recommender.prompt.samples(SAMPLES.take(np.arange(count) * 5), tiny.DATA)


@pytest.mark.parametrize(
    ("kind", "error"),
    [*((kind, ERRORS[0]) for kind in KINDS), *(("compact", error) for error in ERRORS[1:])],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_training_out_of_memory_gives_same_weights(
    sources: dict[str, BackboneConfig], kind: str, error: Exception
) -> None:
    expected = fit_from(fresh(sources[kind]), DATA_SPLIT, RECIPE, lambda _: None)

    with LimitedMemory(5, error) as limit:
        trained = fit_from(fresh(sources[kind]), DATA_SPLIT, RECIPE, lambda _: None)

    assert limit.largest <= 5
    assert limit.failures
    assert_same(trained, expected)
    assert memory_report(trained) == {"micro_batch": 4, "halvings": 3, "checkpointed": True}
    assert memory_report(expected) == {"micro_batch": None, "halvings": 0, "checkpointed": False}


def test_out_of_memory_is_logged_without_data(
    sources: dict[str, BackboneConfig], caplog: pytest.LogCaptureFixture
) -> None:
    with LimitedMemory(16):
        fit_from(fresh(sources["llama"]), DATA_SPLIT, RECIPE, lambda _: None)

    assert caplog.messages == [
        "out of memory: recomputing the layers' activations from now on",
        "out of memory: computing a batch of 32 rows 16 at a time",
    ]


@every_kind
def test_smaller_parts_give_gradients_of_whole_batch(
    sources: dict[str, BackboneConfig], kind: str
) -> None:
    """With dropout too, because the recomputation uses the same dropout mask."""
    recommender = build(VOCABULARY, sources[kind])
    recommender.model.train()
    prompts = some_prompts(recommender)

    def gradients() -> list[torch.Tensor]:
        recommender.model.zero_grad()
        torch.manual_seed(3)
        logits = recommender.live_logits(prompts)
        (logits[:, 0] - logits[:, 1]).square().sum().backward()
        return [p.grad.clone() for p in recommender.model.parameters() if p.grad is not None]

    recommender.memory.training_rows = 5
    in_parts = gradients()
    torch.manual_seed(3)
    part_logits = [recommender.answer_logits(prompts.take(slice(s, s + 5))) for s in (0, 5, 10)]
    recommender.model.zero_grad()
    logits = torch.cat(part_logits)
    (logits[:, 0] - logits[:, 1]).square().sum().backward()
    expected = [p.grad for p in recommender.model.parameters() if p.grad is not None]

    assert len(in_parts) == len(expected)
    for gradient, other in zip(in_parts, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-4)


@every_kind
def test_recomputed_layers_give_same_gradients(
    sources: dict[str, BackboneConfig], kind: str
) -> None:
    recommender = fresh(sources[kind])
    recomputing = recommender.with_model(copy.deepcopy(recommender.model))
    assert checkpoint_layers(recomputing.model)
    assert not checkpoint_layers(recomputing.model)
    for either in (recommender, recomputing):
        either.model.train()
        either.live_logits(some_prompts(either)).square().sum().backward()

    both = zip(recommender.model.parameters(), recomputing.model.parameters(), strict=True)
    for stored, recomputed in both:
        torch.testing.assert_close(stored.grad, recomputed.grad, atol=1e-5, rtol=1e-5)


@every_kind
def test_inference_halves_rows(
    sources: dict[str, BackboneConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first attempt has all twelve prompts in one batch.
    monkeypatch.setattr("models.recommender.base.BATCH_TOKENS_ON_CPU", 1_000_000)
    recommender = fresh(sources[kind])
    prompts = some_prompts(recommender)
    expected = recommender.logits(prompts)

    with LimitedMemory(5) as limit:
        logits = recommender.logits(prompts)

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert limit.failures == 2  # For 12 rows and for 6; all later batches have 3.


def test_single_row_that_does_not_fit_raises_error(sources: dict[str, BackboneConfig]) -> None:
    recommender = fresh(sources["llama"])
    with LimitedMemory(0), pytest.raises(OutOfMemoryError, match="use a smaller backbone"):
        fit_from(recommender, DATA_SPLIT, RECIPE, lambda _: None)
    with LimitedMemory(0), pytest.raises(OutOfMemoryError, match="Give the worker more"):
        recommender.logits(some_prompts(recommender))
    assert recommender.memory.training_rows == 1


@pytest.mark.parametrize(
    "method",
    [
        E2URec(E2URecConfig(augment_steps=3, joint_steps=3)),
        Npo(NpoConfig(loop=LoopConfig(batch_size=8, steps=4))),
    ],
    ids=lambda method: method.name,
)
def test_unlearning_out_of_memory_gives_same_weights(
    sources: dict[str, BackboneConfig], method: E2URec | Npo
) -> None:
    if isinstance(method, E2URec):
        adapter = replace(method.config.adapter, dropout=0.0)
        method = E2URec(replace(method.config, adapter=adapter))
    task = UnlearningTask(
        recommender=fresh(sources["llama"]),
        prepared=split_for_forgetting(
            tiny.DATA, ForgetIndices(users=frozenset({2})), frozenset(), SPLIT
        ),
        expected={},
        memorization={},
        recipe=RECIPE,
    )
    expected = method.unlearn(task, lambda _: None)

    with LimitedMemory(3, training=True):
        unlearned = method.unlearn(task, lambda _: None)

    assert_same(unlearned.recommender, expected.recommender)
    assert unlearned.metrics["micro_batch"] <= 3
    assert unlearned.metrics["halvings"] >= 2
    assert expected.metrics["halvings"] == 0


@pytest.fixture
def step(sources: dict[str, BackboneConfig]) -> Callable[[object], None]:
    """Return a function that takes a step with a loss times a number, or with an error."""
    recommender = fresh(sources["compact"])
    optimizer = torch.optim.AdamW(recommender.model.parameters())

    def take(outcome: object) -> None:
        def loss() -> torch.Tensor:
            if isinstance(outcome, Exception):
                raise outcome
            return recommender.live_logits(some_prompts(recommender)).sum() * outcome

        before = copy.deepcopy(weights(recommender))
        try:
            take_step(recommender, optimizer, loss)
        finally:
            if outcome != 1.0:
                after = weights(recommender)
                assert all(torch.equal(after[name], weight) for name, weight in before.items())

    return take


def test_other_errors_are_raised_and_leave_weights(step: Callable[[object], None]) -> None:
    step(1.0)
    with pytest.raises(DivergedError):
        step(float("nan"))
    for error in (RuntimeError("shapes differ"), ValueError("CUDA out of memory. No, a value")):
        with pytest.raises(type(error), match=str(error)):
            step(error)


def test_loss_without_prompts_is_not_repeated(sources: dict[str, BackboneConfig]) -> None:
    """There are no rows to halve, so the error is raised after one attempt."""
    recommender = fresh(sources["compact"])
    checkpoint_layers(recommender.model)
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    attempts = []

    def loss() -> torch.Tensor:
        attempts.append(1)
        raise MemoryError

    with pytest.raises(OutOfMemoryError):
        take_step(recommender, optimizer, loss)
    assert len(attempts) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces this limit")
def test_training_survives_refused_allocation() -> None:
    """Run a separate process with less address space than its batch needs."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.short_of_memory"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=550,
        check=True,
    )

    report = json.loads(process.stdout)
    assert report["halvings"] >= 1
    assert report["apart"] < 1e-5
    assert b"out of memory: computing a batch of 8192 rows 4096 at a time" in process.stderr


@every_kind
def test_cpu_batch_is_limited_before_memory_runs_out(
    sources: dict[str, BackboneConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU raises no error; the system would kill the process."""
    whole = fresh(sources[kind])
    prompts = some_prompts(whole)
    whole.model.train()
    whole.live_logits(prompts)
    assert whole.memory.training_rows is None
    prompt_bytes = free_memory() // 3 // whole.memory.training_tokens * int(prompts.lengths.max())

    monkeypatch.setattr("models.runtime.memory.free_memory", lambda: 3 * 5 * prompt_bytes)
    recommender = fresh(sources[kind])
    recommender.model.train()
    with LimitedMemory(6) as limit:
        logits = recommender.live_logits(prompts)

    assert 3 <= recommender.memory.training_rows <= 6
    assert limit.failures == 0
    torch.testing.assert_close(logits, whole.answer_logits(prompts), atol=1e-4, rtol=1e-4)


@every_kind
def test_slightly_less_free_memory_changes_no_gradient(
    sources: dict[str, BackboneConfig],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Parts of another size round differently: a busy machine would train other weights."""
    whole = fresh(sources[kind])
    prompts = some_prompts(whole)
    whole.model.train()
    whole.live_logits(prompts)
    prompt_bytes = free_memory() // 3 // whole.memory.training_tokens * int(prompts.lengths.max())

    limited = []
    for fitting in (4.5, 7.5):
        free = int(3 * fitting * prompt_bytes)
        monkeypatch.setattr("models.runtime.memory.free_memory", lambda free=free: free)
        recommender = fresh(sources[kind])
        recommender.model.train()
        recommender.live_logits(prompts).square().sum().backward()
        limited.append(recommender)

    assert [recommender.memory.training_rows for recommender in limited] == [4, 4]
    first, second = (list(recommender.model.parameters()) for recommender in limited)
    assert any(weight.grad is not None for weight in first)
    for one, other in zip(first, second, strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["low on memory: computing a batch of 12 rows 4 at a time"] * 2


def test_container_limit_reduces_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.runtime.memory._CGROUP", tmp_path)
    machine_bytes = free_memory()
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > machine_bytes / 2
    (tmp_path / "memory.max").write_text("1500\n")
    assert free_memory() == 500
    (tmp_path / "memory.max").write_text("900\n")
    assert free_memory() == 0


def test_failed_attempt_frees_its_tensors() -> None:
    deleted: list[torch.Tensor] = []

    class Tracked(torch.Tensor):
        def __del__(self) -> None:
            deleted.append(torch.empty(0))

    def action() -> None:
        big = torch.ones(3).as_subclass(Tracked)  # noqa: F841 -- alive while the error propagates
        raise MemoryError

    assert attempt(action) is None
    assert deleted


def test_halving_starts_from_smaller_last_batch() -> None:
    memory = Memory(training_rows=8, last_batch_rows=5)
    memory.halve()
    assert (memory.training_rows, memory.halvings) == (2, 1)
