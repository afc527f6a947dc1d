"""Measurement of the memory that training holds beside weights and activations."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from smartfrz.optimizers import optimizers_in
from smartfrz.sharding import local


def gradient_bytes(model: nn.Module) -> int:
    """Returns the bytes of the gradients of all parameters that train.

    Of a sharded model, those of this process count.
    """
    trains = [local(param) for param in model.parameters() if param.requires_grad]
    return sum(param.numel() * param.element_size() for param in trains)


def optimizer_state_bytes(optimizer: Optimizer | Sequence[Optimizer]) -> int:
    """Returns the bytes of an optimizer's state, quantised or not, that this process holds.

    Memory shared by several tensors counts once. Optimizers make the state of a parameter at its
    first step.
    """
    states = [each.state for each in optimizers_in(optimizer)]
    values = tree_leaves([list(state.values()) for state in states])
    storages = [part.untyped_storage() for value in values for part in _tensors_in(value)]
    return sum({each._cdata: each.nbytes() for each in storages}.values())


def _tensors_in(value: Any) -> list[Tensor]:
    """Returns the tensors that a tensor consists of, such as a quantised one with its scales."""
    if not isinstance(value, Tensor):
        return []
    if not is_traceable_wrapper_subclass(value):
        return [value]
    names, _ = value.__tensor_flatten__()
    return [part for name in names for part in _tensors_in(getattr(value, name))]
