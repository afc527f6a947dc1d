"""Outputs of cheap functions, computed again in the backward pass in place of being kept."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from smartfrz.graph import Stock
from smartfrz.memory.kept_tensors import unpacked_tensor


class Recipe:
    """Computes a function's output again from a tensor that autograd keeps anyway.

    Args:
        function: depends on the tensors it reads alone.
        source: its input, or the recipe of its input.
        parameters: other tensors that it reads.

    Attributes:
        result: the output, while it waits for its last reader.
        has_last_reader: whether there is one, see `Recomputed`.
    """

    __slots__ = ("autocast", "function", "has_last_reader", "read", "result", "source")

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        source: "Tensor | Recipe",
        parameters: Iterable[Tensor] = (),
    ) -> None:
        self.function = function
        self.result: Tensor | None = None
        self.has_last_reader = False
        # Detached, because a tensor in the graph would form a cycle.
        self.source = source if isinstance(source, Recipe) else source.detach()
        before = source.read if isinstance(source, Recipe) else [self.source]
        self.read: list[Any] = [*before, *parameters]
        self.autocast = autocast_of(self.read[0].device.type)

    def output(self) -> Tensor:
        """Returns the output."""
        x = self.source.output() if isinstance(self.source, Recipe) else self.source
        with torch.no_grad(), autocast_as(self.autocast):
            return self.function(x)


class Recomputed:
    """Substitute for an output with a `Recipe`, for a view or a copy of it in another dtype.

    Args:
        kept: what autograd would keep.
        layout: shape, strides and offset of the output.
        recipe: how to compute it again.
        is_last: whether this is read after all other substitutes, which then leave the output.
    """

    def __init__(
        self, kept: Tensor, layout: tuple[Any, ...], recipe: Recipe, is_last: bool = False
    ) -> None:
        self.recipe, self.layout, self.is_last = recipe, layout, is_last
        recipe.has_last_reader |= is_last
        self.view, self.dtype = layout_of(kept), kept.dtype
        self.versions = [tensor._version for tensor in recipe.read]

    def unpacked(self) -> Tensor:
        """Returns the output.

        Raises:
            RuntimeError: a tensor that the recipe reads has been modified in place.
        """
        if [tensor._version for tensor in self.recipe.read] != self.versions:
            raise RuntimeError(
                "The input or a parameter of a module, which is needed to compute the module's "
                "output again for the gradient, has been modified by an inplace operation. Use an "
                "operation that is not in place, or do not call save_memory."
            )
        output = self.recipe.result
        if output is None:
            output = self.recipe.output()
        if self.recipe.has_last_reader:
            self.recipe.result = None if self.is_last else output
        assert layout_of(output) == self.layout
        return output.to(self.dtype).as_strided(*self.view)


def autocast_of(kind: str) -> tuple[str, torch.dtype | None, bool]:
    """Returns the arguments of `torch.autocast` in force for a type of device."""
    is_enabled = torch.is_autocast_enabled(kind)
    return kind, torch.get_autocast_dtype(kind) if is_enabled else None, is_enabled


def autocast_as(arguments: tuple[str, torch.dtype | None, bool]) -> AbstractContextManager[Any]:
    """Returns `torch.autocast`, unless it is in force anyway: it takes as long as small kernels."""
    is_in_force = autocast_of(arguments[0]) == arguments
    return nullcontext() if is_in_force else torch.autocast(*arguments)


def recipe_by(module: nn.Module, source: Tensor | Recipe) -> Recipe:
    """Returns the recipe of the output of a module, a function of its input and its parameters.

    Args:
        module: the module.
        source: its input, which it keeps, or the recipe of its input.
    """
    return Recipe(partial(type(module).forward, module), source, module.parameters())


def attach_recipe(output: Tensor, recipe: Recipe, name: str = "_smartfrz_recipe") -> None:
    """Lets the next modules keep nothing in place of a tensor with a recipe.

    Args:
        output: the tensor.
        recipe: how to compute it again.
        name: other modules look up recipes that are too costly for most, under another name.
    """
    setattr(output, name, (recipe, output._version))


def recipe_of(x: Tensor, name: str = "_smartfrz_recipe") -> Recipe | None:
    """Returns the recipe of a tensor, unless it has been modified since; see `attach_recipe`."""
    recipe, version = getattr(x, name, (None, None))
    return recipe if version == x._version else None


def keeping_no_input(module: Any, x: Tensor, recipe: Recipe | None, stock: Stock) -> Any:
    """Computes a module that saves its input, which is computed again if it has a recipe."""
    if recipe is None:
        return stock()
    # Autograd keeps the hooks: they must not refer to the input.
    memory, layout, dtype, size = x.untyped_storage()._cdata, layout_of(x), x.dtype, x.numel()
    weight = getattr(module, "weight", None)
    can_tell_copies = weight is None or size != weight.numel()

    def pack(tensor: Tensor) -> Any:
        is_input = tensor.untyped_storage()._cdata == memory
        # Autocast makes copies of the input and of the weight.
        is_copy = can_tell_copies and tensor.dtype != dtype and tensor.numel() == size
        return Recomputed(tensor, layout, recipe) if is_input or is_copy else tensor

    with saved_tensors_hooks(pack, unpacked_tensor):
        return stock()


def layout_of(tensor: Tensor) -> tuple[Any, ...]:
    """Returns shape, strides and offset."""
    return tensor.shape, tensor.stride(), tensor.storage_offset()
