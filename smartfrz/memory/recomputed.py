"""Outputs of cheap modules that are computed again in the backward pass, in place of being kept."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from smartfrz.graph import Stock
from smartfrz.memory.kept_tensors import unpacked_tensor


class Recipe:
    """Computes the output of a module again from its input, which the module keeps anyway.

    Args:
        module: the module, a function of its input and its parameters alone.
        x: its input.
        output: its output.
    """

    def __init__(self, module: nn.Module, x: Tensor, output: Tensor) -> None:
        # Detached, because a tensor in the graph would form a cycle.
        self.module, self.x = module, x.detach()
        self.layout, self.version = _layout(output), output._version
        self._read = [(each, each._version) for each in (self.x, *module.parameters())]
        kind = x.device.type
        dtype, is_enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._autocast = partial(torch.autocast, kind, dtype, is_enabled)

    def output(self) -> Tensor:
        """Returns the output.

        Raises:
            RuntimeError: the input or a parameter has been modified in place.
        """
        if any(each._version != version for each, version in self._read):
            raise RuntimeError(
                f"The input or a parameter of a {type(self.module).__name__}, which is needed for "
                "the gradient, has been modified by an inplace operation. Use an operation that is "
                "not in place, or do not call save_memory."
            )
        with torch.no_grad(), self._autocast():
            return type(self.module).forward(self.module, self.x)


class Recomputed:
    """Substitute for an output with a `Recipe`, for a view or a copy of it in another dtype."""

    def __init__(self, kept: Tensor, recipe: Recipe) -> None:
        self.recipe, self.view, self.dtype = recipe, _layout(kept), kept.dtype

    def unpacked(self) -> Tensor:
        output = self.recipe.output()
        assert _layout(output) == self.recipe.layout
        return output.to(self.dtype).as_strided(*self.view)


def remember_recipe(module: nn.Module, x: Tensor, output: Tensor) -> None:
    """Lets the next modules keep the module's input in place of its output."""
    output._smartfrz_recipe = Recipe(module, x, output)  # type: ignore[attr-defined]


def keeping_no_input(module: Any, x: Tensor, stock: Stock) -> Any:
    """Computes a linear layer that saves its input, which is computed again if it has a recipe."""
    recipe = getattr(x, "_smartfrz_recipe", None)
    if recipe is None or recipe.version != x._version:
        return stock()
    # Autograd keeps the hooks: they must not refer to the input.
    memory, dtype, size = x.untyped_storage()._cdata, x.dtype, x.numel()
    can_tell_copies = size != module.weight.numel()

    def pack(tensor: Tensor) -> Any:
        is_input = tensor.untyped_storage()._cdata == memory
        # Autocast makes copies of the input and of the weight.
        is_copy = can_tell_copies and tensor.dtype != dtype and tensor.numel() == size
        return Recomputed(tensor, recipe) if is_input or is_copy else tensor

    with saved_tensors_hooks(pack, unpacked_tensor):
        return stock()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()
