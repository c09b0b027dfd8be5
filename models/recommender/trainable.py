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

    from models.recommender.base import Recommender

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
    for name, own in _fitting(recommender, state).items():
        own.copy_(state[name])


@torch.no_grad()
def adopt_state(recommender: Recommender, state: Mapping[str, torch.Tensor]) -> None:
    """Make these tensors themselves what `own_state` names, so that mapped files stay mapped.

    Those of an adapter, or of another type or device than the model's, are copied. Raises
    ForeignWeightsError.
    """
    parameters = dict(recommender.model.named_parameters())
    for name, own in _fitting(recommender, state).items():
        tensor, parameter = state[name], parameters.get(name)
        if parameter is None or (tensor.dtype, tensor.device) != (own.dtype, own.device):
            own.copy_(tensor)
        else:
            # A parameter keeps its identity, and with it whatever it is tied to.
            parameter.data = tensor


@torch.no_grad()
def free_weights(recommender: Recommender) -> None:
    """Free the recommender's own weights now; it answers nothing any more.

    Modules refer to each other in circles, so that without this the weights would wait for a
    garbage collection, and that holds up every thread of the process.
    """
    for parameter in _own_parameters(recommender):
        parameter.data = parameter.new_empty(0)


def copy_recommender(recommender: Recommender) -> Recommender:
    """Return a copy whose own weights may change; a public backbone is shared, not copied."""
    model, shared = recommender.model, {}
    if recommender.config.adapter is not None:
        named = (*model.named_parameters(), *model.named_buffers())
        shared = {id(tensor): tensor for name, tensor in named if _ADAPTER not in name}
    return recommender.with_model(copy.deepcopy(model, shared))


def set_trainable(recommender: Recommender, *, train: bool) -> list[torch.nn.Parameter]:
    """Return the recommender's own parameters, having let them, and them alone, train or not."""
    recommender.model.requires_grad_(requires_grad=False)
    own = _own_parameters(recommender)
    for parameter in own:
        parameter.requires_grad = train
    return own


def trainable_parameters(recommender: Recommender) -> int:
    """Return how many parameters train."""
    return sum(p.numel() for p in recommender.model.parameters() if p.requires_grad)


def _own_parameters(recommender: Recommender) -> list[torch.nn.Parameter]:
    adapter = recommender.config.adapter is not None
    return [
        parameter
        for name, parameter in recommender.model.named_parameters()
        if _ADAPTER in name or not adapter
    ]


def _fitting(
    recommender: Recommender, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the recommender's own state if `state` has the same; raises ForeignWeightsError."""
    own = own_state(recommender)
    if own.keys() != state.keys():
        raise ForeignWeightsError("tensors are missing or left over")
    if any(own[name].shape != tensor.shape for name, tensor in state.items()):
        raise ForeignWeightsError("a tensor has another shape")
    return own


def _tied(model: torch.nn.Module) -> set[str]:
    """Return the names of tensors that only share the storage of one that is named before."""
    seen: set[int] = set()
    tied = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            tied.add(name)
        seen.add(tensor.data_ptr())
    return tied
