"""Freezing and thawing of single layers: what changes in their modules and their optimizer."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim import Optimizer

from smartfrz.grouping import is_norm
from smartfrz.layers import Layer
from smartfrz.optimizers import optimizers_in
from smartfrz.sharding import discard_late_gradients, local


def freeze_layer(layer: Layer, optimizer: Optimizer | Sequence[Optimizer]) -> None:
    """Freezes a layer: no gradient, no optimizer state, norms in eval mode."""
    for param in layer.params:
        discard_late_gradients(param)
        param.requires_grad_(False)
        param.grad = None
        for each in optimizers_in(optimizer):
            each.state.pop(param, None)
    for module in layer.modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            renormalise(module)
        if is_norm(module) or _updates_itself(module):
            stay_in_eval(module)
        stop_observing(module)


def thaw_layer(layer: Layer, training: bool) -> None:
    """Undoes `freeze_layer`, except for the gradients and the optimizer state, which start anew.

    Args:
        layer: a frozen layer.
        training: whether its norms return to training mode.
    """
    for param in layer.params:
        param.requires_grad_(True)
        param.grad = None
    for module in layer.modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.max_norm = vars(module).pop(_MAX_NORM, module.max_norm)
        if is_norm(module) or _updates_itself(module):
            follow_mode(module, training)
        observe_again(module)


def stay_in_eval(module: nn.Module) -> None:
    """Keeps a module in eval mode, even after calls of ``model.train()`` or ``update_bn``."""
    module.eval()
    # model.train() calls the train() of every submodule.
    module.train = partial(_stay, module)  # type: ignore[method-assign]
    if hasattr(module, "reset_running_stats"):
        module.reset_running_stats = partial(_stay, module)  # type: ignore[assignment]


def follow_mode(module: nn.Module, training: bool) -> None:
    """Undoes `stay_in_eval`."""
    for name in ("train", "reset_running_stats"):
        vars(module).pop(name, None)
    module.train(training)


@torch.no_grad()
def renormalise(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Applies ``max_norm`` to all rows now; the forward pass would apply it to each row when used.

    An embedding without ``max_norm`` is not changed.
    """
    if embedding.max_norm is not None:
        weight = local(embedding.weight)
        assert weight.shape[1] == embedding.embedding_dim, "rows are not split"
        rows = torch.arange(len(weight), device=weight.device)
        torch.embedding_renorm_(weight, rows, embedding.max_norm, embedding.norm_type)
        setattr(embedding, _MAX_NORM, embedding.max_norm)
        embedding.max_norm = None


_MAX_NORM = "_max_norm_before_freezing"


def stop_observing(module: nn.Module) -> None:
    """Keeps the ranges of all fake quantizers in a module, even after ``enable_observer``."""
    for part in _fake_quantizers(module):
        part.disable_observer()
        part.enable_observer = partial(_stay, part)


def observe_again(module: nn.Module) -> None:
    """Undoes `stop_observing`."""
    for part in _fake_quantizers(module):
        if vars(part).pop("enable_observer", None) is not None:
            part.enable_observer()


def _fake_quantizers(module: nn.Module) -> Iterator[Any]:
    return (part for part in module.modules() if hasattr(part, "disable_observer"))


def _updates_itself(module: nn.Module) -> bool:
    """Whether training mode changes a weight module: its running statistics or, by a hook of the
    older ``spectral_norm``, its weight.
    """
    hooks = module._forward_pre_hooks.values()
    return hasattr(module, "running_mean") or any(isinstance(hook, SpectralNorm) for hook in hooks)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
