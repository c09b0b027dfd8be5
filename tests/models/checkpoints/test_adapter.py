"""Adapters: folding changes no answer, strangers are refused, and unrated items keep no trace."""

from __future__ import annotations

import copy
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
from models.recommender.base import Recommender
from models.recommender.token_rows import reset_item_rows
from models.recommender.trainable import trainable_parameters
from models.training.trainer import live_margins

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.prompts.compact_prompt import PromptBatch

PARENT = "ab" * 32
CONFIG = AdapterConfig(rank=4, alpha=8)
#: Folding adds the delta to the weights first: the same sums in another order.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def prompts(trained: Recommender, planted: Interactions, prepared: ForgetSplit) -> PromptBatch:
    return trained.prompt.samples(prepared.parts.test, planted)


@pytest.fixture(scope="module")
def student(trained: Recommender, planted: Interactions, prepared: ForgetSplit) -> Recommender:
    """An adapter that was trained for some steps to answer the reverse."""
    found = attach(trained, CONFIG, seed=3)
    prompts = found.prompt.samples(prepared.parts.valid, planted)
    wrong = 1 - torch.from_numpy(prepared.parts.valid.label)
    optimizer = torch.optim.AdamW([p for p in found.model.parameters() if p.requires_grad], lr=1e-2)
    found.model.train()
    for _ in range(10):
        loss = functional.binary_cross_entropy_with_logits(live_margins(found, prompts), wrong)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found.model.eval()
    return found


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


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_fresh_adapter_changes_no_answer(trained: Recommender, prompts: PromptBatch) -> None:
    fresh = attach(trained, CONFIG, seed=0)

    torch.testing.assert_close(fresh.logits(prompts), trained.logits(prompts))


def test_only_the_adapter_trains(trained: Recommender) -> None:
    fresh = attach(trained, CONFIG, seed=0)

    training = [name for name, p in fresh.model.named_parameters() if p.requires_grad]
    assert training
    assert all("lora_" in name for name in training)
    everything = sum(parameter.numel() for parameter in trained.model.parameters())
    assert 0 < trainable_parameters(fresh) < everything
    assert trainable_parameters(attach(trained, AdapterConfig(rank=8), seed=0)) == (
        2 * trainable_parameters(fresh)
    )


def test_attaching_and_training_leave_the_parent_alone(
    trained: Recommender, student: Recommender, prompts: PromptBatch
) -> None:
    """The student is long trained here; its base is a copy."""
    assert not any("lora" in name for name in trained.model.state_dict())
    moved = (student.logits(prompts) - trained.logits(prompts)).abs().max()
    assert moved > 0.1
    shared = {tensor.data_ptr() for tensor in student.model.parameters()}
    assert not shared & {tensor.data_ptr() for tensor in trained.model.parameters()}


def test_the_merge_answers_as_the_student(
    trained: Recommender, student: Recommender, saved: Path, prompts: PromptBatch
) -> None:
    merged = merge(trained, PARENT, saved)

    torch.testing.assert_close(
        merged.logits(prompts), student.logits(prompts), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_the_merge_leaves_the_parent_alone(trained: Recommender, saved: Path) -> None:
    before = weights(trained)

    merge(trained, PARENT, saved)

    assert_same_weights(weights(trained), before)


def test_the_merge_is_a_release_like_any_other(
    trained: Recommender, saved: Path, prompts: PromptBatch, tmp_path: Path
) -> None:
    """It has the parent's tensors, tied as before, and survives a checkpoint; no LoRA remains."""
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


def test_a_release_is_no_adapter(trained: Recommender, tmp_path: Path) -> None:
    save_release(trained, tmp_path, method="train", parent=PARENT)

    with pytest.raises(CheckpointError, match="holds no adapter"):
        merge(trained, PARENT, tmp_path)


def test_an_adapter_is_no_release(saved: Path) -> None:
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
    """The manifest is sound and names the right parent, but the tensors are not its own."""
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


def test_rows_of_items_nobody_rated_keep_their_initial_values(
    trained: Recommender, prepared: ForgetSplit
) -> None:
    """Training moves only the rows of items that occur: others cannot show a trace."""
    first = trained.vocabulary.first_item
    found, initial = embeddings(trained)[first:], initial_embeddings(trained)[first:]
    never = [
        *prepared.unused_item_indices().tolist(),
        *range(150, trained.vocabulary.item_capacity),
    ]
    assert set(range(140, 150)) <= set(never)
    rated = [item_index for item_index in range(150) if item_index not in set(never)]

    assert torch.equal(found[never], initial[never])
    assert ((found[rated] - initial[rated]).abs().amax(dim=1) > 1e-4).all()


def test_reset_rows_have_their_exact_initial_values(trained: Recommender) -> None:
    found = Recommender(trained.vocabulary, trained.config, copy.deepcopy(trained.model))
    item_indices = [3, 77, 139, -1, trained.vocabulary.item_capacity + 4]

    reset_item_rows(found, item_indices)

    tokens = torch.tensor([trained.vocabulary.item(item_index) for item_index in item_indices[:3]])
    others = torch.ones(trained.vocabulary.size, dtype=torch.bool)
    others[tokens] = False
    assert torch.equal(embeddings(found)[tokens], initial_embeddings(found)[tokens])
    assert torch.equal(embeddings(found)[others], embeddings(trained)[others])
    assert not torch.equal(embeddings(trained)[tokens], initial_embeddings(found)[tokens])


def test_rows_of_a_merge_can_be_reset(trained: Recommender, saved: Path) -> None:
    merged = merge(trained, PARENT, saved)

    reset_item_rows(merged, range(140))

    rows = slice(merged.vocabulary.first_item, None)
    assert torch.equal(embeddings(merged)[rows], initial_embeddings(merged)[rows])


def test_resetting_nothing_is_fine(trained: Recommender) -> None:
    found = Recommender(trained.vocabulary, trained.config, copy.deepcopy(trained.model))

    reset_item_rows(found, [])

    assert_same_weights(weights(found), weights(trained))
