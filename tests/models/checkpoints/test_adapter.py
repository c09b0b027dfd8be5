"""Adapters train alone, merge into the same logits, and fit only their own parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from models.backbones.compact import build_compact
from models.backbones.lora import AdapterConfig
from models.checkpoints.adapter import attach, merge, save
from models.checkpoints.checkpoint import load, read_weights, write
from models.checkpoints.checkpoint import save as save_release
from models.checkpoints.manifest import CheckpointError, read_manifest
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.recommender.token_rows import reset_rows
from models.recommender.trainable import trainable_parameters
from models.training.trainer import live_margins

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

PARENT = "ab" * 32
CONFIG = AdapterConfig(rank=4, alpha=8)
#: A merge adds the delta to the weights first, which changes the order of the sums.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def prompts(trained: Recommender, planted: Interactions, prepared: ForgetSplit) -> PromptBatch:
    return trained.prompt.samples(prepared.parts.test, planted)


@pytest.fixture(scope="module")
def student(trained: Recommender, planted: Interactions, prepared: ForgetSplit) -> Recommender:
    """An adapter that was trained for ten steps on inverted labels."""
    recommender = attach(trained, CONFIG, seed=3)
    prompts = recommender.prompt.samples(prepared.parts.valid, planted)
    inverted = 1 - torch.from_numpy(prepared.parts.valid.label)
    trainable = [p for p in recommender.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    recommender.model.train()
    for _ in range(10):
        batch_margins = live_margins(recommender, prompts)
        loss = functional.binary_cross_entropy_with_logits(batch_margins, inverted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recommender.model.eval()
    return recommender


@pytest.fixture
def saved(student: Recommender, tmp_path: Path) -> Path:
    save(student, tmp_path / "adapter", CONFIG, method="e2urec", parent=PARENT, extra={})
    return tmp_path / "adapter"


def embeddings(recommender: Recommender) -> torch.Tensor:
    weight: torch.Tensor = recommender.model.get_input_embeddings().weight
    return weight.detach()


def initial_embeddings(recommender: Recommender) -> torch.Tensor:
    weight: torch.Tensor = (
        build_compact(recommender.vocabulary, recommender.config).get_input_embeddings().weight
    )
    return weight.detach()


def weights(recommender: Recommender) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in recommender.model.state_dict().items()}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_new_adapter_changes_no_logit(trained: Recommender, prompts: PromptBatch) -> None:
    fresh = attach(trained, CONFIG, seed=0)

    torch.testing.assert_close(fresh.logits(prompts), trained.logits(prompts))


def test_only_the_adapter_trains(trained: Recommender) -> None:
    fresh = attach(trained, CONFIG, seed=0)

    training = [name for name, p in fresh.model.named_parameters() if p.requires_grad]
    assert training
    assert all("lora_" in name for name in training)
    parameter_count = sum(parameter.numel() for parameter in trained.model.parameters())
    assert 0 < trainable_parameters(fresh) < parameter_count
    assert trainable_parameters(attach(trained, AdapterConfig(rank=8), seed=0)) == (
        2 * trainable_parameters(fresh)
    )


def test_attaching_and_training_do_not_change_the_parent(
    trained: Recommender, student: Recommender, prompts: PromptBatch
) -> None:
    """The student has been trained by now; its base is a copy of the parent."""
    assert not any("lora" in name for name in trained.model.state_dict())
    moved = (student.logits(prompts) - trained.logits(prompts)).abs().max()
    assert moved > 0.1
    shared = {tensor.data_ptr() for tensor in student.model.parameters()}
    assert not shared & {tensor.data_ptr() for tensor in trained.model.parameters()}


def test_the_merge_has_the_students_logits(
    trained: Recommender, student: Recommender, saved: Path, prompts: PromptBatch
) -> None:
    merged = merge(trained, PARENT, saved)

    torch.testing.assert_close(
        merged.logits(prompts), student.logits(prompts), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_the_merge_does_not_change_the_parent(trained: Recommender, saved: Path) -> None:
    before = weights(trained)

    merge(trained, PARENT, saved)

    assert_same_weights(weights(trained), before)


def test_a_merge_can_be_saved_and_loaded_as_a_release(
    trained: Recommender, saved: Path, prompts: PromptBatch, tmp_path: Path
) -> None:
    """The merge has the parent's tensors, tied as before, without LoRA, also after a checkpoint."""
    merged = merge(trained, PARENT, saved)
    assert merged.model.state_dict().keys() == trained.model.state_dict().keys()

    save_release(merged, tmp_path / "release", method="e2urec", parent=PARENT)
    loaded = load(tmp_path / "release")

    assert torch.equal(loaded.logits(prompts), merged.logits(prompts))
    assert merged.model.lm_head.weight is merged.model.get_input_embeddings().weight
    score = (
        {},
        [HistoryEvent(1, 4.0), HistoryEvent(2, 1.5)],
        [Candidate(item_index, {"genre": ("War",)}) for item_index in range(9)],
    )
    assert loaded.score(*score).tolist() == merged.score(*score).tolist()


def test_merging_twice_gives_the_same_weights(trained: Recommender, saved: Path) -> None:
    assert_same_weights(
        weights(merge(trained, PARENT, saved)), weights(merge(trained, PARENT, saved))
    )


def test_an_adapter_of_another_parent_is_refused(trained: Recommender, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no adapter of release cdcdcd"):
        merge(trained, "cd" * 32, saved)


def test_a_release_is_refused_as_an_adapter(trained: Recommender, tmp_path: Path) -> None:
    save_release(trained, tmp_path, method="train", parent=PARENT)

    with pytest.raises(CheckpointError, match="holds no adapter"):
        merge(trained, PARENT, tmp_path)


def test_an_adapter_is_refused_as_a_release(saved: Path) -> None:
    with pytest.raises(CheckpointError):
        load(saved)


def test_a_damaged_adapter_is_refused(trained: Recommender, saved: Path) -> None:
    content = bytearray((saved / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "weights.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match="damaged"):
        merge(trained, PARENT, saved)


@pytest.mark.parametrize("fault", ["unexpected", "missing", "shape"])
def test_an_adapter_that_does_not_fit_is_refused(
    trained: Recommender, saved: Path, tmp_path: Path, fault: str
) -> None:
    """The manifest is valid and has the right parent, but the tensors do not match."""
    state, content = read_weights(saved), dict(read_manifest(saved).content)
    name = next(name for name in state if "q_proj" in name)
    if fault == "unexpected":
        state["base_model.model.stowaway.lora_A.weight"] = torch.zeros(2)
    elif fault == "missing":
        del state[name]
    else:
        state[name] = state[name][:, :-1].contiguous()
    write(tmp_path / "other", state, content)

    with pytest.raises(CheckpointError, match="does not fit"):
        merge(trained, PARENT, tmp_path / "other")


def test_rows_of_a_merge_can_be_reset(trained: Recommender, saved: Path) -> None:
    merged = merge(trained, PARENT, saved)

    reset_rows(merged, [merged.vocabulary.item(index) for index in range(140)])

    rows = slice(merged.vocabulary.first_item, None)
    assert torch.equal(embeddings(merged)[rows], initial_embeddings(merged)[rows])
