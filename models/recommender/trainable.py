"""Select a recommender's own weights: all of its model, or one adapter on a public backbone.

Own weights are trained, saved in releases and shredded. A public backbone below an adapter is
frozen, and shared by all recommenders in the process that use it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from peft import get_peft_model_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.recommender.base import Recommender

#: Part of the name of every adapter tensor in PEFT.
_ADAPTER_NAME = "lora_"


class ForeignWeightsError(ValueError):
    """The tensors' names or shapes are not those of the recommender's own weights."""


def own_state(recommender: Recommender) -> dict[str, torch.Tensor]:
    """Return the tensors that a release stores, as views; tied tensors only once."""
    if recommender.config.adapter is not None:
        state = get_peft_model_state_dict(recommender.model, save_embedding_layers=False)
        return {name: tensor.detach() for name, tensor in state.items()}
    tied = _tied(recommender.model)
    state = recommender.model.state_dict()
    return {name: tensor for name, tensor in state.items() if name not in tied}


@torch.no_grad()
def load_state(
    recommender: Recommender, state: Mapping[str, torch.Tensor], *, assign: bool = False
) -> None:
    """Load the tensors of `own_state`, in place; raises ForeignWeightsError if they do not match.

    `assign`: use the given tensors themselves, so that memory-mapped files stay mapped. Tensors of
    an adapter, or of another type or device than the model's, are copied all the same.
    """
    parameters = dict(recommender.model.named_parameters())
    for name, own in _matching_state(recommender, state).items():
        tensor, parameter = state[name], parameters.get(name)
        is_same_kind = (tensor.dtype, tensor.device) == (own.dtype, own.device)
        if assign and parameter is not None and is_same_kind:
            # Replacing the data, not the parameter, keeps tied weights tied.
            parameter.data = tensor
        else:
            own.copy_(tensor)


@torch.no_grad()
def free_weights(recommender: Recommender) -> None:
    """Free the memory of the recommender's own weights immediately; it cannot be used afterwards.

    Modules have reference cycles, so that otherwise only the garbage collector would free the
    weights, and a garbage collection stops every thread of the process.
    """
    for parameter in _own_parameters(recommender):
        parameter.data = parameter.new_empty(0)


def copy_recommender(recommender: Recommender) -> Recommender:
    """Return a copy with own weights of its own; a public backbone is shared, not copied."""
    model, shared = recommender.model, {}
    if recommender.config.adapter is not None:
        named = (*model.named_parameters(), *model.named_buffers())
        shared = {id(tensor): tensor for name, tensor in named if _ADAPTER_NAME not in name}
    return recommender.with_model(copy.deepcopy(model, shared))


def set_trainable(recommender: Recommender, *, train: bool) -> list[torch.nn.Parameter]:
    """Make the own parameters trainable or not, freeze all others; return the own parameters."""
    recommender.model.requires_grad_(requires_grad=False)
    own = _own_parameters(recommender)
    for parameter in own:
        parameter.requires_grad = train
    return own


def trainable_parameters(recommender: Recommender) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in recommender.model.parameters() if p.requires_grad)


def _own_parameters(recommender: Recommender) -> list[torch.nn.Parameter]:
    has_adapter = recommender.config.adapter is not None
    return [
        parameter
        for name, parameter in recommender.model.named_parameters()
        if _ADAPTER_NAME in name or not has_adapter
    ]


def _matching_state(
    recommender: Recommender, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return `own_state`; raises ForeignWeightsError if names or shapes differ from `state`."""
    own = own_state(recommender)
    if own.keys() != state.keys():
        raise ForeignWeightsError("tensors are missing or superfluous")
    if any(own[name].shape != tensor.shape for name, tensor in state.items()):
        raise ForeignWeightsError("the shape of a tensor differs")
    return own


def _tied(model: torch.nn.Module) -> set[str]:
    """Return the names of tensors that share the storage of an earlier tensor."""
    seen: set[int] = set()
    tied = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            tied.add(name)
        seen.add(tensor.data_ptr())
    return tied
