"""Test adapter roles on every architecture, and every unlearning method on other backbones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from models.audit.calibration import ExpectedLossIncrease
from models.audit.memorization import Memorization
from models.backbones.lora import ROLES, AdapterConfig, AdapterTargetError, find_target_modules
from models.checkpoints.adapter import attach, merge, save
from models.checkpoints.checkpoint import load
from models.checkpoints.checkpoint import save as save_release
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import build_samples
from models.data.splits import TimeSplit
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build
from models.recommender.trainable import trainable_parameters
from models.training.recipes import ADAPTER
from models.training.trainer import TrainConfig, row_losses
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.badt import BadTeacher, BadTeacherConfig
from models.unlearning.base import UnlearningTask
from models.unlearning.e2urec import E2URec, E2URecConfig
from models.unlearning.e2urec_fast import E2URecFast, E2URecFastConfig
from models.unlearning.finetune import FineTune, FineTuneConfig
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from models.unlearning.neggrad_calibrated import CalibratedNegGrad, CalibratedNegGradConfig
from models.unlearning.npo import Npo, NpoConfig
from models.unlearning.receraser import RecEraser, RecEraserConfig
from models.unlearning.retrain import Retrain
from models.unlearning.scrub import Scrub, ScrubConfig
from models.unlearning.simnpo import SimNpo, SimNpoConfig
from models.unlearning.sisa import Sisa, SisaConfig
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender
    from models.unlearning.base import UnlearningMethod

pytestmark = pytest.mark.slow

VOCABULARY = Vocabulary.from_catalog(tiny.DATA)
SAMPLES = build_samples(tiny.DATA)
LOOP = LoopConfig(rate_share=1.0, batch_size=4, steps=2)
METHODS: dict[str, UnlearningMethod] = {
    "retrain": Retrain(),
    "finetune": FineTune(FineTuneConfig(loop=LOOP)),
    "neggrad": NegGrad(NegGradConfig(loop=LOOP)),
    "neggrad-calibrated": CalibratedNegGrad(CalibratedNegGradConfig(loop=LOOP, check_every=1)),
    "badt": BadTeacher(BadTeacherConfig(loop=LOOP)),
    "npo": Npo(NpoConfig(loop=LOOP)),
    "simnpo": SimNpo(SimNpoConfig(loop=LOOP)),
    "scrub": Scrub(ScrubConfig(batch_size=8, rounds=2, max_rounds=1)),
    "e2urec": E2URec(E2URecConfig(augment_steps=2, joint_steps=2, batch_size=8)),
    "e2urec-fast": E2URecFast(E2URecFastConfig(steps=2, forget_batch=4, retain_batch=4)),
    "sisa": Sisa(SisaConfig(shards=2, passes=1)),
    "receraser": RecEraser(RecEraserConfig(shards=2, passes=1, steps=2, most_rows=16)),
    "apa": Apa(ApaConfig(shards=2, passes=1)),
}
LOSS_INCREASE = ExpectedLossIncrease(mean=0.05, error=0.01, spread=0.01, rows=16, units=6)
#: What leaving rows of a kind out changes, as a calibration would have fitted it.
MEMORIZATION = Memorization(
    own=0.05, history=0.7, error=0.1, gain=0.2, gain_error=0.02, people=12.0
)
#: Suffixes of the layers' names, by architecture and role.
EXPECTED = {
    "compact": {"query": {"q_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"}},
    "compact-t5": {"query": {"q"}, "output": {"o"}, "mlp": {"wi_0", "wi_1", "wo"}},
    "llama": {"value": {"v_proj"}, "output": {"o_proj"}},
    "gpt2": {"query": {"c_attn"}, "output": {"attn.c_proj"}, "mlp": {"mlp.c_fc", "mlp.c_proj"}},
    "t5": {"key": {"k"}, "value": {"v"}, "mlp": {"wi", "wo"}},
    "bart": {"query": {"q_proj"}, "output": {"out_proj"}, "mlp": {"fc1", "fc2"}},
}
INPUT = {"compact": "model.embed_tokens", "compact-t5": "shared", "gpt2": "transformer.wte"}
every_backbone = pytest.mark.parametrize("kind", tiny.BACKBONES)


@pytest.fixture(scope="module")
def recommenders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recommender]:
    return {
        kind: build(VOCABULARY, tiny.save(kind, tmp_path_factory.mktemp(kind)))
        for kind in tiny.BACKBONES
    }


def some_prompts(recommender: Recommender) -> PromptBatch:
    return recommender.prompt.samples(SAMPLES.take(np.arange(0, 60, 5)), tiny.DATA)


@every_backbone
def test_roles_resolve_to_the_architectures_layers(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    model = recommenders[kind].model
    for role, ends in EXPECTED[kind].items():
        layers = find_target_modules(model, [role])
        assert layers
        assert all(any(name.endswith(f".{end}") for end in ends) for name in layers)
        assert all(any(name.endswith(f".{end}") for name in layers) for end in ends)
    if kind in INPUT:
        assert find_target_modules(model, ["embedding"]) == [INPUT[kind]]


@every_backbone
def test_the_answers_are_two_columns_of_the_vocabulary_where_the_backbone_has_one(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    recommender = recommenders[kind]
    prompts = some_prompts(recommender)

    words = recommender.vocabulary_logits(prompts)

    torch.testing.assert_close(
        words[:, list(recommender.answer_columns)], recommender.answer_logits(prompts)
    )
    size = 2 if kind in tiny.COMPACT else recommender.model.config.vocab_size
    assert words.shape == (len(prompts), size)


SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
OTHERS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bloom": (BloomForCausalLM, BloomConfig(**SMALL)),
    "falcon": (FalconForCausalLM, FalconConfig(**SMALL)),
    "gpt-j": (GPTJForCausalLM, GPTJConfig(**SMALL, rotary_dim=4)),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL, intermediate_size=32)),
    "opt": (OPTForCausalLM, OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16)),
    "phi": (PhiForCausalLM, PhiConfig(**SMALL, intermediate_size=32)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_product_adapter_covers_every_linear_layer_except_the_head(kind: str) -> None:
    architecture, config = OTHERS[kind]
    model = architecture(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(find_target_modules(model, ADAPTER.targets)) == linear - {"lm_head", "embed_out"}


def test_an_unknown_role_lists_the_known_roles(recommenders: dict[str, Recommender]) -> None:
    with pytest.raises(AdapterTargetError, match=", ".join(ROLES)):
        attach(recommenders["compact"], AdapterConfig(targets=("q_proj",)), seed=0)


def test_an_architecture_without_a_role_raises_an_error() -> None:
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(AdapterTargetError, match="Bare has no module for the role 'query'"):
        find_target_modules(Bare(), ["query"])


@every_backbone
def test_text_prompts_have_no_adapter_on_the_embedding(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    student = attach(recommenders[kind], AdapterConfig(), seed=0)

    adapted = any("lora_embedding" in name for name, _ in student.model.named_parameters())
    assert adapted == (kind in tiny.COMPACT)
    assert trainable_parameters(student) > 0


@every_backbone
def test_the_merged_model_answers_as_the_student_and_keeps_tied_weights(
    recommenders: dict[str, Recommender], kind: str, tmp_path: Path
) -> None:
    recommender, config = recommenders[kind], AdapterConfig(rank=2, alpha=8, dropout=0.0)
    prompts = some_prompts(recommender)
    before = recommender.logits(prompts)
    answers = recommender.model.get_output_embeddings().weight[list(recommender.prompt.answers)]
    student = attach(recommender, config, seed=1)
    torch.testing.assert_close(student.logits(prompts), before, atol=1e-6, rtol=0)
    trainable = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=3e-2)
    student.model.train()
    for _ in range(3):
        loss = (student.answer_logits(prompts) - torch.tensor([2.0, -2.0])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.model.eval()
    save(student, tmp_path / "delta", config, method="e2urec", parent="", extra={})

    merged = merge(recommender, "", tmp_path / "delta")

    taught = student.logits(prompts)
    assert (taught - before).abs().mean() > 0.01
    torch.testing.assert_close(merged.logits(prompts), taught, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recommender.logits(prompts), before, atol=0, rtol=0)
    head, rows = merged.model.get_output_embeddings(), merged.model.get_input_embeddings()
    assert head.weight.data_ptr() == rows.weight.data_ptr()
    assert torch.equal(head.weight[list(recommender.prompt.answers)], answers)
    assert merged.model.state_dict().keys() == recommender.model.state_dict().keys()
    save_release(merged, tmp_path / "release", method="e2urec")
    torch.testing.assert_close(
        load(tmp_path / "release").logits(prompts), taught, atol=1e-4, rtol=1e-4
    )


def task(parent: Recommender) -> UnlearningTask:
    bounds = TimeSplit.by_shares(SAMPLES, train=0.6, valid=0.2)
    prepared = split_for_forgetting(
        tiny.DATA, ForgetIndices(users=frozenset(range(6))), frozenset(), bounds
    )
    small = replace(
        prepared,
        parts=replace(prepared.parts, train=prepared.parts.train.take(np.arange(48))),
        forget=prepared.forget.take(np.arange(16)),
        forget_kind=prepared.forget_kind[:16],
    )
    recipe = TrainConfig(backbone=parent.config, batch_size=16, validations=0, learning_rate=1e-3)
    return UnlearningTask(
        recommender=parent,
        prepared=small,
        expected={"user": LOSS_INCREASE},
        memorization={"user": MEMORIZATION},
        recipe=recipe,
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_dropout_depends_on_the_tasks_seed_alone(
    recommenders: dict[str, Recommender], method: str
) -> None:
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        result = METHODS[method].unlearn(task(recommenders["gpt2"]), lambda _: None)
        states.append(result.recommender.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kind", ["compact-t5", "llama", "gpt2", "t5"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_methods_run_on_other_backbones(
    recommenders: dict[str, Recommender], kind: str, method: str, tmp_path: Path
) -> None:
    parent = recommenders[kind]
    batch = task(parent)
    forget = batch.prepared.forget
    before = row_losses(parent, forget, tiny.DATA)

    result = METHODS[method].unlearn(batch, lambda _: None)

    released = result.recommender
    if (adapter := result.adapter) is not None:
        save(released, tmp_path, adapter, method=method, parent="", extra={}, rows=result.rows)
        released = merge(parent, "", tmp_path)
    after = row_losses(released, forget, tiny.DATA)
    assert math.isfinite(after.sum())
    assert np.abs(after - before).max() > 1e-6
    np.testing.assert_array_equal(row_losses(parent, forget, tiny.DATA), before)
