"""Activations of which the backward pass needs to know where they pass the gradient."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from smartfrz.graph import Stock
from smartfrz.memory.kept_tensors import Sign, unpacked_tensor
from smartfrz.memory.recomputed import Recipe, Recomputed, attach_recipe, layout_of, recipe_of

_RELU6_BACKWARD = torch.ops.aten.hardtanh_backward
_LEAKY_RELU_BACKWARD = torch.ops.aten.leaky_relu_backward


def relu(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    """Computes ReLU, which keeps bits, its output if the next module does, or nothing."""
    recipe = recipe_of(x)
    if recipe is not None:
        recipe = Recipe(partial(type(module).forward, module), recipe)
        kept = Recomputed(x, layout_of(x), recipe, is_last=True)
        with saved_tensors_hooks(lambda _: kept, unpacked_tensor):
            output = stock()
        attach_recipe(output, recipe)
        return output
    signs: list[Sign] = []

    def pack(output: Tensor) -> Sign:
        signs.append(Sign(output))
        return signs[-1]

    with saved_tensors_hooks(pack, unpacked_tensor):
        output = stock()
    signs[0].follow(output)
    return output


def relu6(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    """Computes ReLU6, which keeps what `relu` keeps."""
    backward = partial(_RELU6_BACKWARD, min_val=0.0, max_val=6.0)
    return _by_output(x, module, backward, below=6.0)


def leaky_relu(module: Any, x: Tensor, stock: Stock) -> Tensor:
    """Computes LeakyReLU, which keeps what `relu` keeps, if its slope is positive."""
    slope = module.negative_slope
    if slope <= 0:
        return stock()
    backward = partial(_LEAKY_RELU_BACKWARD, negative_slope=slope, self_is_result=True)
    return _by_output(x, module, backward)


def keep_bits(x: Tensor) -> None:
    """Makes the activation that produced ``x`` keep bits, as the caller does not save ``x``."""
    sign = getattr(x, "_smartfrz_sign", None)
    if sign is not None:
        sign.to_bits()


def keep_output(x: Tensor) -> None:
    """Makes the activation that produced ``x`` keep no bits, as the caller saves ``x`` anyway."""
    sign = getattr(x, "_smartfrz_sign", None)
    if sign is not None:
        sign.to_output(x)


def _by_output(x: Tensor, module: nn.Module, backward: Any, below: float | None = None) -> Tensor:
    keep_bits(x)
    recipe = recipe_of(x)
    if recipe is not None:
        recipe = Recipe(partial(type(module).forward, module), recipe)
        output = _ByOutput.apply(
            x, module, Recomputed(x, layout_of(x), recipe, is_last=True), backward
        )
        attach_recipe(output, recipe)
        return output
    sign = Sign(x, below)
    output = _ByOutput.apply(x, module, sign, backward)
    sign.follow(output)
    # Immediately, because residual blocks may modify the output in place: PyTorch saves x instead.
    sign.to_bits()
    return output


class _ByOutput(torch.autograd.Function):
    """An activation whose gradient is computed from its output, which the next layer may save, too.

    PyTorch's activation saves the input, as a copy if the activation is in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, kept: Sign | Recomputed, backward: Any) -> Tensor:
        ctx.kept, ctx.gradient = kept, backward
        if module.inplace:
            ctx.mark_dirty(x)
        return type(module).forward(module, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient(grad, ctx.kept.unpacked()), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return ctx.gradient(tangent, ctx.kept.unpacked())
