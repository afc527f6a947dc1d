"""Batch norms that keep less, and the outputs of those that train, computed again."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smartfrz.memory.recomputed import Recipe


def is_by_batch(module: Any) -> bool:
    """Whether a batch norm normalises by the statistics of the batch."""
    return module.training or module.running_mean is None


def recipe_by_batch_norm(module: Any, x: Tensor, output: Tensor) -> Recipe:
    """Returns the recipe of the output of a batch norm that saves its input ``x``."""
    weight, bias = module.weight, module.bias
    norm = partial(F.batch_norm, weight=weight, bias=bias, eps=module.eps)
    parameters = module.parameters(recurse=False)
    if not is_by_batch(module):
        mean, var = module.running_mean, module.running_var
        function = partial(norm, running_mean=mean, running_var=var)
        return Recipe(function, x, (mean, var, *parameters))
    if x.device.type != "cpu":
        function = partial(norm, running_mean=None, running_var=None, training=True)
        return Recipe(function, x, parameters)
    node: Any = output.grad_fn
    mean, inverse_std = node._saved_result1, node._saved_result2
    return Recipe(partial(_normalised, mean, inverse_std, weight, bias), x, parameters)


def _normalised(
    mean: Tensor, inverse_std: Tensor, weight: Tensor | None, bias: Tensor | None, x: Tensor
) -> Tensor:
    """Computes a batch norm by given statistics, equal to the bit on a CPU.

    There, statistics take ten times as long as the rest.
    """
    scale = inverse_std if weight is None else inverse_std * weight
    return F.batch_norm(x, mean, torch.ones_like(mean), scale, bias, eps=0.0)


def frozen_batch_norm(module: Any, x: Tensor) -> Tensor:
    """Computes a frozen batch norm in eval mode without saving its input."""
    return _FrozenBatchNorm.apply(
        x, module.running_mean, module.running_var, module.weight, module.bias, module.eps
    )


class _FrozenBatchNorm(torch.autograd.Function):
    """A frozen batch norm that does not save its input, which PyTorch's backward pass requires."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, *affine: Any) -> Tensor:
        weight, bias, ctx.eps = affine
        ctx.save_for_backward(var, weight)
        return F.batch_norm(x, mean, var, weight, bias, eps=ctx.eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _FrozenBatchNorm.jvp(ctx, grad), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        # The function is affine: tangents and gradients are scaled like the input.
        var, weight = ctx.saved_tensors
        return F.batch_norm(tangent, torch.zeros_like(var), var, weight, eps=ctx.eps)
