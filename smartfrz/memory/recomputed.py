"""Outputs of cheap modules that are computed again in the backward pass, in place of being kept."""

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

    __slots__ = ("autocast", "module", "version", "x")  # made in each forward pass

    def __init__(self, module: nn.Module, x: Tensor, output: Tensor) -> None:
        # Detached, because a tensor in the graph would form a cycle.
        self.module, self.x, self.version = module, x.detach(), output._version
        kind = x.device.type
        is_enabled = torch.is_autocast_enabled(kind)
        self.autocast = (kind, torch.get_autocast_dtype(kind) if is_enabled else None, is_enabled)

    def output(self) -> Tensor:
        """Returns the output."""
        with torch.no_grad(), torch.autocast(*self.autocast):
            return type(self.module).forward(self.module, self.x)


class Recomputed:
    """Substitute for an output with a `Recipe`, for a view or a copy of it in another dtype.

    Args:
        kept: what autograd would keep.
        layout: shape, strides and offset of the output.
        recipe: how to compute it again.
    """

    def __init__(self, kept: Tensor, layout: tuple[Any, ...], recipe: Recipe) -> None:
        self.recipe, self.layout = recipe, layout
        self.view, self.dtype = _layout(kept), kept.dtype
        read = (recipe.x, *recipe.module.parameters())
        self.read = [(tensor, tensor._version) for tensor in read]

    def unpacked(self) -> Tensor:
        """Returns the output.

        Raises:
            RuntimeError: the module's input or a parameter has been modified in place.
        """
        if any(tensor._version != version for tensor, version in self.read):
            raise RuntimeError(
                f"The input or a parameter of a {type(self.recipe.module).__name__}, which is "
                "needed for the gradient, has been modified by an inplace operation. Use an "
                "operation that is not in place, or do not call save_memory."
            )
        output = self.recipe.output()
        assert _layout(output) == self.layout
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
    memory, layout, dtype, size = x.untyped_storage()._cdata, _layout(x), x.dtype, x.numel()
    can_tell_copies = size != module.weight.numel()

    def pack(tensor: Tensor) -> Any:
        is_input = tensor.untyped_storage()._cdata == memory
        # Autocast makes copies of the input and of the weight.
        is_copy = can_tell_copies and tensor.dtype != dtype and tensor.numel() == size
        return Recomputed(tensor, layout, recipe) if is_input or is_copy else tensor

    with saved_tensors_hooks(pack, unpacked_tensor):
        return stock()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()
