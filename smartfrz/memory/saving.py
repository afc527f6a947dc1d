"""Reduction of the tensors that modules save for the backward pass."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from smartfrz.distributed import unwrap
from smartfrz.graph import Rule, Stock, add_rule, remove_rule
from smartfrz.memory.attention import keeping_attention_inputs
from smartfrz.memory.batch_norms import frozen_batch_norm, is_by_batch, recipe_by_batch_norm
from smartfrz.memory.kept_tensors import DropoutNoise, ShapeOnly, unpacked_tensor
from smartfrz.memory.pooling import Indices, Windows
from smartfrz.memory.recomputed import (
    attach_recipe,
    keeping_no_input,
    recipe_by,
    recipe_of,
)
from smartfrz.memory.signs import keep_bits, keep_output, leaky_relu, relu, relu6
from smartfrz.sharding import class_of


def save_memory(model: nn.Module) -> None:
    """Restricts the tensors that a model's modules save to those that the backward pass needs.

    PyTorch saves the input of a convolution or batch norm even if it is frozen and the input is
    only needed for weight gradients. After this call

    - frozen convolutions, and frozen batch norms in eval mode, save no activation;
    - ReLU, ReLU6 and LeakyReLU save one bit per element, or nothing if a layer that trains saves
      their output anyway; dropout saves one bit per element;
    - average pooling saves nothing, max pooling one byte per element of its output unless windows
      are long;
    - a layer that trains saves no input that is the output of layer norm, RMS norm, GELU or SiLU,
      or of a batch norm that trains and the activation that follows it: these save their own
      input, from which it is computed again in the backward pass;
    - a batch norm that trains after a convolution of images saves the images alone;
    - attention of timm and transformers saves queries, keys and values alone, with the state of the
      random number generator if there is dropout. What fused kernels save beside these is little:
      it is computed again only if that takes less time than a linear layer of the same width;
    - activations and RMS norms of transformers that consist of several steps save their input.

    PyTorch's own kernels run, so gradients are bitwise equal as far as these are deterministic,
    except for rounding in batch norms that are frozen.
    Parameters, buffers, names and hooks stay the same objects. Frozen linear layers save nothing in
    PyTorch, either, and the backward passes of layer norms, GELU and attention need their inputs.
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
    if rule is None or not _is_recorded():
        return None
    if x.requires_grad or rule is keeping_attention_inputs:
        return rule(module, x, stock)
    return _first_convolution(module, x, stock) if rule is _convolution else None


def _is_recorded() -> bool:
    """Whether autograd is enabled and no other saved-tensor hooks are active."""
    autograd: Any = torch._C._autograd
    return (
        torch.is_grad_enabled()
        and autograd._saved_tensors_hooks_is_enabled()
        and autograd._top_saved_tensors_default_hooks(True) is None
    )


def _saving_input(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    """Computes a module that trains."""
    recipe = recipe_of(x)
    if recipe is None:
        keep_output(x)
    else:
        keep_bits(x)
    return keeping_no_input(module, x, recipe, stock)


_CONVOLUTION = "_smartfrz_convolution"
"""Name of the recipe of a convolution of images."""


def _first_convolution(module: Any, x: Tensor, stock: Stock) -> Tensor:
    """Lets a norm keep the images, which are smaller and have few channels to sum over."""
    output = stock()
    if module.weight.requires_grad and output.numel() > x.numel():
        attach_recipe(output, recipe_by(module, x), _CONVOLUTION)
    return output


def _convolution(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if not _is_frozen(module):
        return _saving_input(module, x, stock)
    keep_bits(x)
    shape = module.weight.shape
    with saved_tensors_hooks(lambda t: t if t.shape == shape else ShapeOnly(t), unpacked_tensor):
        return stock()


def _batch_norm(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if is_by_batch(module) or not _is_frozen(module):
        if (recipe := recipe_of(x, _CONVOLUTION)) is not None:
            return keeping_no_input(module, x, recipe, stock)
        output = _saving_input(module, x, stock)
        if recipe_of(x) is None:
            attach_recipe(output, recipe_by_batch_norm(module, x, output))
        return output
    keep_bits(x)
    return frozen_batch_norm(module, x)


def _linear(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if module.weight.requires_grad:
        return _saving_input(module, x, stock)
    keep_bits(x)
    return stock()


def _function_of_its_input(module: Any, x: Tensor, stock: Stock) -> Tensor:
    recipe = recipe_of(x)
    output = keeping_no_input(module, x, recipe, stock)
    if recipe is not None or not getattr(module, "inplace", False):
        attach_recipe(output, recipe_by(module, recipe or x))
    return output


def _function_of_several_steps(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    """Keeps the input alone, where autograd keeps the results of the steps in between."""
    output = checkpoint(stock, use_reentrant=False, preserve_rng_state=False)
    attach_recipe(output, recipe_by(module, recipe_of(x) or x))
    return output


def _mean_pool(module: nn.Module, x: Tensor, stock: Stock) -> Tensor:
    keep_bits(x)
    with saved_tensors_hooks(ShapeOnly, unpacked_tensor):
        return stock()


def _max_pool(module: nn.Module, x: Tensor, stock: Stock) -> Any:
    keep_bits(x)
    windows = Windows(module, x)

    def pack(tensor: Tensor) -> ShapeOnly | Indices:
        return ShapeOnly(tensor) if tensor.is_floating_point() else Indices(tensor, windows)

    with saved_tensors_hooks(pack, unpacked_tensor):
        return stock()


def _dropout(module: Any, x: Tensor, stock: Stock) -> Tensor:
    if not module.training or module.p in (0, 1):
        return stock()
    keep_bits(x)
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
    ((nn.ReLU,), relu),
    ((nn.ReLU6,), relu6),
    ((nn.LeakyReLU,), leaky_relu),
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
    kind: Any = class_of(module)
    return _rule_of_class(kind)


@cache
def _rule_of_class(kind: type[nn.Module]) -> Rule | None:
    package, name = kind.__module__, kind.__qualname__
    if package.startswith("transformers.models.") and name.endswith("RMSNorm"):
        return _function_of_several_steps  # each language model has a copy of its own
    if package.startswith(("timm.", "transformers.models.")) and name.endswith("Attention"):
        return keeping_attention_inputs
    return _RULE_OF.get(kind) or _RULE_OF_OTHERS.get(f"{package}.{name}")


def _is_frozen(module: Any) -> bool:
    # The attributes instead of the parameters, from which parametrizations compute them.
    weight, bias = module.weight, module.bias
    return not (weight is not None and weight.requires_grad) and not (
        bias is not None and bias.requires_grad
    )
