"""Which weights are a recommender's own: all of its model's, or one adapter on a public backbone.

What is its own is trained, saved and shredded; a public backbone is none of it, and is shared by
all recommenders that stand on it. Knows PEFT; nothing of files.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from peft import get_peft_model_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.recommender import Recommender

#: What PEFT calls all that an adapter consists of.
_ADAPTER = "lora_"


class ForeignWeightsError(ValueError):
    """The tensors are not those that this recommender consists of."""


def own_state(recommender: Recommender) -> dict[str, torch.Tensor]:
    """Return the tensors that a release consists of, as live views, each storage once."""
    if recommender.config.adapter is not None:
        state = get_peft_model_state_dict(recommender.model, save_embedding_layers=False)
        return {name: tensor.detach() for name, tensor in state.items()}
    tied = _tied(recommender.model)
    state = recommender.model.state_dict()
    return {name: tensor for name, tensor in state.items() if name not in tied}


@torch.no_grad()
def put_state(recommender: Recommender, state: Mapping[str, torch.Tensor]) -> None:
    """Overwrite all that `own_state` names, in place; raises ForeignWeightsError."""
    own = own_state(recommender)
    if own.keys() != state.keys():
        raise ForeignWeightsError("tensors are missing or left over")
    if any(own[name].shape != tensor.shape for name, tensor in state.items()):
        raise ForeignWeightsError("a tensor has another shape")
    for name, tensor in state.items():
        own[name].copy_(tensor)


def copied(recommender: Recommender) -> Recommender:
    """Return a copy whose own weights may change; a public backbone is shared, not copied."""
    model, shared = recommender.model, {}
    if recommender.config.adapter is not None:
        named = (*model.named_parameters(), *model.named_buffers())
        shared = {id(tensor): tensor for name, tensor in named if _ADAPTER not in name}
    return recommender.with_model(copy.deepcopy(model, shared))


def own_parameters(recommender: Recommender, *, train: bool) -> list[torch.nn.Parameter]:
    """Return the recommender's own parameters, having let them, and them alone, train or not."""
    recommender.model.requires_grad_(requires_grad=False)
    adapter = recommender.config.adapter is not None
    own = [
        parameter
        for name, parameter in recommender.model.named_parameters()
        if _ADAPTER in name or not adapter
    ]
    for parameter in own:
        parameter.requires_grad = train
    return own


def trainable_parameters(recommender: Recommender) -> int:
    """Return how many parameters train."""
    return sum(p.numel() for p in recommender.model.parameters() if p.requires_grad)


def _tied(model: torch.nn.Module) -> set[str]:
    """Return the names of tensors that only share the storage of one that is named before."""
    seen: set[int] = set()
    tied = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            tied.add(name)
        seen.add(tensor.data_ptr())
    return tied
