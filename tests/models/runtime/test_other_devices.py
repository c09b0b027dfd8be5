"""Tests that models on another device never mix its tensors with those of the CPU.

The tests need no GPU: torch's `meta` device has shapes without values. A dispatch mode checks the
devices in every operation and returns placeholder values for tensors that are copied to the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.audit.calibration import ExpectedLossIncrease
from models.audit.memorization import Memorization
from models.backbones.compact import CompactConfig, CompactT5Config
from models.checkpoints.adapter import AdapterConfig, attach
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import build_samples
from models.data.splits import TimeSplit
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.runtime.devices import Machine, use
from models.training.trainer import TrainConfig, fit, fit_from, margins
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.base import UnlearningTask
from models.unlearning.e2urec import E2URec, E2URecConfig
from models.unlearning.e2urec_fast import E2URecFast
from models.unlearning.finetuning import LoopConfig
from models.unlearning.npo import Npo, NpoConfig
from models.unlearning.receraser import RecEraser, RecEraserConfig
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.backbones.compact import BackboneConfig
    from models.recommender.base import Recommender
    from models.unlearning.base import UnlearningMethod

pytestmark = pytest.mark.slow

OTHER_DEVICE: Final = torch.device("meta")
VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(build_samples(tiny.DATA), train=0.6, valid=0.2)
DATA_SPLIT: Final = split_for_forgetting(
    tiny.DATA, ForgetIndices(users=frozenset({2})), frozenset(), SPLIT
)
LOSS_INCREASE: Final = ExpectedLossIncrease(mean=0.05, error=0.01, spread=0.03, rows=20, units=5)
#: What leaving rows of a kind out changes, as a calibration would have fitted it.
MEMORIZATION: Final = Memorization(
    own=0.05, history=0.7, error=0.1, gain=0.2, gain_error=0.02, people=12.0
)
SMALL: Final = {
    "compact": CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    "compact-t5": CompactT5Config(),
}
#: Operations that read one number from the device, and the placeholder that they return.
SCALAR_READS: Final = {"item": 0.5, "_local_scalar_dense": 0.5, "is_nonzero": False}
#: Operations that copy between devices, or may take indices from the CPU.
CROSSING: Final = {"_to_copy", "copy_", "index", "index_put_", "index_put"}


class Accelerator(TorchDispatchMode):
    """Raise an error for operations on tensors of different devices, as a GPU does."""

    def __torch_dispatch__(
        self, func: Any, _types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if torch.is_inference_mode_enabled():  # Composite operations arrive undecomposed.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device for tensor in tensors if tensor.ndim}
        if len(devices) > 1:
            crosses = name in CROSSING
            if name.startswith("index_put"):  # The values must be where the tensor is.
                crosses = args[0].device == args[2].device or not args[2].ndim
            if not crosses:
                raise RuntimeError(f"{name}: expected all tensors on one device, not {devices}")
        if name in SCALAR_READS and args[0].device == OTHER_DEVICE:
            return SCALAR_READS[name]
        target = kwargs.get("device", args[0].device if name == "copy_" else None)
        from_meta = any(tensor.device == OTHER_DEVICE for tensor in tensors)
        if name in {"_to_copy", "copy_"} and target == torch.device("cpu") and from_meta:
            source = args[-1]
            fetched = torch.full(source.shape, 0.5, dtype=kwargs.get("dtype") or source.dtype)
            return args[0].copy_(fetched) if name == "copy_" else fetched
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _other_device() -> Iterator[None]:
    use(Machine(device=OTHER_DEVICE))
    with Accelerator():
        yield
    use(Machine())


@pytest.fixture(params=["compact", "compact-t5", "llama", "t5"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> BackboneConfig:
    return SMALL.get(request.param) or tiny.save(request.param, tmp_path)


def recipe(config: BackboneConfig) -> TrainConfig:
    return TrainConfig(backbone=config, batch_size=64, warmup_steps=2, validations=1)


def test_mixed_devices_raise_error() -> None:
    with pytest.raises(RuntimeError, match="on one device"):
        torch.ones(2, 2) @ torch.ones(2, 2, device=OTHER_DEVICE)
    assert (torch.ones(2, device=OTHER_DEVICE) + 1).cpu().tolist() == [0.5, 0.5]


def test_training_and_inference_keep_devices(config: BackboneConfig) -> None:
    recommender = fit(VOCABULARY, DATA_SPLIT, recipe(config), lambda _: None)
    recommender.memory.training_rows = 7
    fit_from(recommender, DATA_SPLIT, recipe(config), lambda _: None)

    assert recommender.device == OTHER_DEVICE
    answers = margins(recommender, recommender.prompt.golden())
    assert answers.device == torch.device("cpu")
    assert answers.dtype == torch.float32
    candidates = [Candidate(n, {}, f"Item {n}") for n in range(3)]
    assert recommender.score({}, [HistoryEvent(1, 4.0, "Item 1")], candidates).shape == (3,)


def test_bfloat16_model_returns_float32_margins(tmp_path: Path) -> None:
    config = replace(tiny.save("llama", tmp_path), dtype="bfloat16")
    student = attach(build(VOCABULARY, config), AdapterConfig(rank=2), 0)
    fit_from(student, DATA_SPLIT, recipe(config), lambda _: None)

    assert margins(student, student.prompt.golden()).dtype == torch.float32


_LOOP: Final = LoopConfig(batch_size=8, steps=2)


@pytest.mark.parametrize(
    "method",
    [
        E2URec(E2URecConfig(augment_steps=2, joint_steps=2)),
        E2URecFast(),
        Npo(NpoConfig(loop=_LOOP)),
        RecEraser(RecEraserConfig(steps=2)),
        Apa(ApaConfig()),
    ],
    ids=lambda method: method.name,
)
@pytest.mark.parametrize("kind", ["compact", "llama"])
def test_unlearned_model_stays_on_device(
    method: UnlearningMethod, kind: str, tmp_path: Path
) -> None:
    config = SMALL.get(kind) or tiny.save(kind, tmp_path)
    root: Recommender = method.train(VOCABULARY, DATA_SPLIT, recipe(config), lambda _: None)
    task = UnlearningTask(
        recommender=root,
        prepared=DATA_SPLIT,
        expected={"user": LOSS_INCREASE},
        memorization={"user": MEMORIZATION},
        recipe=recipe(config),
    )

    unlearned = method.unlearn(task, lambda _: None)

    assert unlearned.recommender.device == OTHER_DEVICE
