"""Reduction of the tensors that modules save for the backward pass."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smartfrz.distributed import unwrap
from smartfrz.graph import Rule, Stock, add_rule, remove_rule
from smartfrz.memory.kept_tensors import DropoutNoise, Indices, ShapeOnly, Sign, unpacked_tensor
from smartfrz.memory.recomputed import keeping_no_input, remember_recipe
from smartfrz.sharding import class_of


def save_memory(model: nn.Module) -> None:
    """Restricts the tensors that a model's modules save to those that the backward pass needs.

    PyTorch saves the input of a convolution or batch norm even if it is frozen and the input is
    only needed for weight gradients. After this call

    - frozen convolutions, and frozen batch norms in eval mode, save no activation;
    - ReLU, ReLU6 and LeakyReLU save one bit per element, or nothing if a layer that trains saves
      their output anyway; dropout saves one bit per element;
    - average pooling saves nothing, max pooling small integers;
    - a linear layer that trains saves no input that is the output of layer norm, RMS norm, GELU or
      SiLU: these save their own input, from which it is computed again in the backward pass;
    - activations and RMS norms of transformers that consist of several steps save their input.

    PyTorch's own kernels run, so gradients are bitwise equal as far as these are deterministic,
    except for rounding in batch norms.
    Parameters, buffers, names and hooks stay the same objects. Frozen linear layers save nothing in
    PyTorch, either, and the backward passes of layer norms, GELU and attention need what they save.
    Layers that are frozen or thawed later need no further call.

    Some modules of timm and transformers that compute what PyTorch's compute are affected, too. Not
    affected are functions (``F.relu``), modules with a ``forward`` other than PyTorch's,
    compiled code, and modules under other saved-tensor hooks, as in activation checkpointing.

    Args:
        model: any model; DDP and ``torch.compile`` wrappers are unwrapped.
    """
    for module in unwrap(model).modules():
        if _rule_of(module) is not None:
            add_rule(module, _keeping_less, rank=1)


def restore_memory(model: nn.Module) -> None:
    """Undoes `save_memory`."""
    for module in unwrap(model).modules():
        remove_rule(module, _keeping_less)


def _keeping_less(module: nn.Module, x: Tensor, stock: Stock) -> Any:
    rule = _rule_of(module)
    return rule(module, x, stock) if rule is not None and _is_recorded(x) else None


def _is_recorded(x: Tensor) -> bool:
    """Whether autograd tracks ``x`` and no other saved-tensor hooks are active."""
    autograd: Any = torch._C._autograd
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and autograd._saved_tensors_hooks_is_enabled()
        and autograd._top_saved_tensors_default_hooks(True) is None
    )


def _convolution(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if not _is_frozen(module):
        _keep_output(x)
        return stock()
    _keep_bits(x)
    shape = module.weight.shape
    with saved_tensors_hooks(lambda t: t if t.shape == shape else ShapeOnly(t), unpacked_tensor):
        return stock()


def _batch_norm(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if module.training or module.running_mean is None or not _is_frozen(module):
        _keep_output(x)
        return stock()
    _keep_bits(x)
    return _FrozenBatchNorm.apply(
        x, module.running_mean, module.running_var, module.weight, module.bias, module.eps
    )


def _linear(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if not module.weight.requires_grad:
        _keep_bits(x)
        return stock()
    _keep_output(x)
    return keeping_no_input(module, x, stock)


def _function_of_its_input(module: Any, x: Tensor, stock: Stock) -> Tensor:
    output = stock()
    if not getattr(module, "inplace", False):
        remember_recipe(module, x, output)
    return output


def _function_of_several_steps(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    """Keeps the input alone, where autograd keeps the results of the steps in between."""
    output = checkpoint(stock, use_reentrant=False, preserve_rng_state=False)
    remember_recipe(module, x, output)
    return output


def _mean_pool(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    _keep_bits(x)
    with saved_tensors_hooks(ShapeOnly, unpacked_tensor):
        return stock()


_POOLED: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
"""Number of dimensions that a module pools."""


def _max_pool(module: nn.Module, x: Tensor, stock: Stock) -> Any:
    _keep_bits(x)
    # Indices refer to the pooled dimensions, which are the last ones, with or without a batch.
    largest = x.shape[-_POOLED[class_of(module)] :].numel()
    dtype = torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32

    def pack(tensor: Tensor) -> "ShapeOnly | Indices":
        return ShapeOnly(tensor) if tensor.is_floating_point() else Indices(tensor, dtype)

    with saved_tensors_hooks(pack, unpacked_tensor):
        return stock()


def _relu(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    kept: list[Sign] = []

    def pack(output: Tensor) -> "Sign":
        kept.append(Sign(output))
        return kept[-1]

    with saved_tensors_hooks(pack, unpacked_tensor):
        output = stock()
    kept[0].follow(output)
    return output


def _relu6(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    _keep_bits(x)
    sign = Sign(x, below=6.0)
    return _by_output(x, module, sign, partial(_RELU6_BACKWARD, min_val=0.0, max_val=6.0))


def _leaky_relu(module: Any, x: Tensor, stock: Stock) -> Tensor:
    slope = module.negative_slope
    if slope <= 0:
        return stock()
    _keep_bits(x)
    sign = Sign(x)
    backward = partial(_LEAKY_RELU_BACKWARD, negative_slope=slope, self_is_result=True)
    return _by_output(x, module, sign, backward)


def _by_output(x: Tensor, module: nn.Module, sign: Sign, backward: Any) -> Tensor:
    output = _ByOutput.apply(x, module, sign, backward)
    sign.follow(output)
    # Immediately, because residual blocks may modify the output in place: PyTorch saves x instead.
    sign.to_bits()
    return output


def _dropout(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if not module.training or module.p in (0, 1):
        return stock()
    _keep_bits(x)
    with saved_tensors_hooks(lambda t: DropoutNoise(t, 1 - module.p), unpacked_tensor):
        return stock()


_RULES: list[tuple[tuple[type[nn.Module], ...], Rule]] = [
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.Linear,), _linear),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _mean_pool),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _mean_pool),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool),
    ((nn.ReLU,), _relu),
    ((nn.ReLU6,), _relu6),
    ((nn.LeakyReLU,), _leaky_relu),
    ((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _dropout),
    ((nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.SiLU), _function_of_its_input),
]
_RULE_OF = {kind: rule for kinds, rule in _RULES for kind in kinds}
_RULE_OF_OTHERS: dict[str, Rule] = {
    "timm.layers.norm.LayerNorm": _function_of_its_input,
    "timm.layers.activations.GELU": _function_of_its_input,
    "transformers.activations.GELUActivation": _function_of_its_input,
    "transformers.activations.SiLUActivation": _function_of_its_input,
    "transformers.activations.NewGELUActivation": _function_of_several_steps,
    "transformers.activations.QuickGELUActivation": _function_of_several_steps,
    "transformers.pytorch_utils.Conv1D": _linear,
}
"""Modules of other packages that compute what PyTorch's compute, in a class of their own."""


def _rule_of(module: nn.Module) -> Rule | None:
    kind = class_of(module)
    if kind.__module__.startswith("transformers.models.") and kind.__name__.endswith("RMSNorm"):
        return _function_of_several_steps  # each language model has a copy of its own
    name = f"{kind.__module__}.{kind.__qualname__}"
    return _RULE_OF.get(kind) or _RULE_OF_OTHERS.get(name)


def _is_frozen(module: Any) -> bool:
    # The attributes instead of the parameters, from which parametrizations compute them.
    weight, bias = module.weight, module.bias
    return not (weight is not None and weight.requires_grad) and not (
        bias is not None and bias.requires_grad
    )


_RELU6_BACKWARD = torch.ops.aten.hardtanh_backward
_LEAKY_RELU_BACKWARD = torch.ops.aten.leaky_relu_backward


class _ByOutput(torch.autograd.Function):
    """An activation whose gradient is computed from its output, which the next layer may save, too.

    PyTorch's activation saves the input, as a copy if the activation is in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, sign: "Sign", backward: Any) -> Tensor:
        ctx.sign, ctx.gradient = sign, backward
        if module.inplace:
            ctx.mark_dirty(x)
        return type(module).forward(module, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient(grad, ctx.sign.unpacked()), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return ctx.gradient(tangent, ctx.sign.unpacked())


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


def _keep_bits(x: Tensor) -> None:
    """Makes the activation that produced ``x`` keep bits, as the caller does not save ``x``."""
    sign = getattr(x, "_smartfrz_sign", None)
    if sign is not None:
        sign.to_bits()


def _keep_output(x: Tensor) -> None:
    """Makes the activation that produced ``x`` keep no bits, as the caller saves ``x`` anyway."""
    sign = getattr(x, "_smartfrz_sign", None)
    if sign is not None:
        sign.to_output(x)
