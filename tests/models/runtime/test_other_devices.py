"""Models on another device: what meets there comes from there, and what is computed comes back.

No GPU is needed: torch's `meta` device has shapes without numbers. A mode watches every operation,
as a GPU would, and gives numbers to what is fetched from there. What they are does not matter here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.audit.calibration import ExpectedLossIncrease
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

ELSEWHERE: Final = torch.device("meta")
VOCABULARY: Final = Vocabulary.from_catalog(tiny.DATA)
SPLIT: Final = TimeSplit.by_shares(build_samples(tiny.DATA), train=0.6, valid=0.2)
BATCH: Final = split_for_forgetting(
    tiny.DATA, ForgetIndices(users=frozenset({2})), frozenset(), SPLIT
)
LOSS_INCREASE: Final = ExpectedLossIncrease(mean=0.05, error=0.01, spread=0.03, rows=20, units=5)
SMALL: Final = {
    "compact": CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    "compact-t5": CompactT5Config(),
}
#: These copy from one device to the other, or may take indices from the CPU.
#: What whoever asks for a single number from elsewhere is told.
ASKED: Final = {"item": 0.5, "_local_scalar_dense": 0.5, "is_nonzero": False}
CROSSING: Final = {"_to_copy", "copy_", "index", "index_put_", "index_put"}


class Accelerator(TorchDispatchMode):
    """Lets no tensor of the CPU meet one from elsewhere, as no GPU does."""

    def __torch_dispatch__(
        self, func: Any, _types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if torch.is_inference_mode_enabled():  # Then operations come here whole.
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        met = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        there = {each.device for each in met if each.ndim}
        if len(there) > 1:
            crosses = name in CROSSING
            if name.startswith("index_put"):  # The values must be where the tensor is.
                crosses = args[0].device == args[2].device or not args[2].ndim
            if not crosses:
                raise RuntimeError(f"{name}: expected all tensors on one device, not {there}")
        if name in ASKED and args[0].device == ELSEWHERE:
            return ASKED[name]
        to = kwargs.get("device", args[0].device if name == "copy_" else None)
        leaves = to == torch.device("cpu") and any(each.device == ELSEWHERE for each in met)
        if name in {"_to_copy", "copy_"} and leaves:
            source = args[-1]
            fetched = torch.full(source.shape, 0.5, dtype=kwargs.get("dtype") or source.dtype)
            return args[0].copy_(fetched) if name == "copy_" else fetched
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _elsewhere() -> Iterator[None]:
    use(Machine(device=ELSEWHERE))
    with Accelerator():
        yield
    use(Machine())


@pytest.fixture(params=["compact", "compact-t5", "llama", "t5"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> BackboneConfig:
    return SMALL.get(request.param) or tiny.save(request.param, tmp_path)


def recipe(config: BackboneConfig) -> TrainConfig:
    return TrainConfig(backbone=config, batch_size=64, warmup_steps=2, validations=1)


def test_a_careless_model_is_caught() -> None:
    with pytest.raises(RuntimeError, match="on one device"):
        torch.ones(2, 2) @ torch.ones(2, 2, device=ELSEWHERE)
    assert (torch.ones(2, device=ELSEWHERE) + 1).cpu().tolist() == [0.5, 0.5]


def test_training_and_answering(config: BackboneConfig) -> None:
    found = fit(VOCABULARY, BATCH, recipe(config), lambda _: None)
    found.memory.rows = 7
    fit_from(found, BATCH, recipe(config), lambda _: None)

    assert found.device == ELSEWHERE
    answers = margins(found, found.prompt.golden())
    assert answers.device == torch.device("cpu")
    assert answers.dtype == torch.float32
    wanted = [Candidate(n, {}, f"Item {n}") for n in range(3)]
    assert found.score({}, [HistoryEvent(1, 4.0, "Item 1")], wanted).shape == (3,)


def test_half_the_precision_answers_in_whole(tmp_path: Path) -> None:
    config = replace(tiny.save("llama", tmp_path), dtype="bfloat16")
    student = attach(build(VOCABULARY, config), AdapterConfig(rank=2), 0)
    fit_from(student, BATCH, recipe(config), lambda _: None)

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
def test_unlearning(method: UnlearningMethod, kind: str, tmp_path: Path) -> None:
    config = SMALL.get(kind) or tiny.save(kind, tmp_path)
    root: Recommender = method.train(VOCABULARY, BATCH, recipe(config), lambda _: None)
    task = UnlearningTask(
        recommender=root, prepared=BATCH, expected={"user": LOSS_INCREASE}, recipe=recipe(config)
    )

    found = method.unlearn(task, lambda _: None)

    assert found.recommender.device == ELSEWHERE
