"""Freezing and thawing of single layers: what changes in their modules and their optimizer."""

from functools import partial

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim import Optimizer

from smartfrz.grouping import is_norm
from smartfrz.layers import Layer


def freeze_layer(layer: Layer, optimizer: Optimizer) -> None:
    """Freezes a layer: no gradient, no optimizer state, norms in eval mode."""
    for param in layer.params:
        param.requires_grad_(False)
        param.grad = None
        optimizer.state.pop(param, None)
    for module in layer.modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            renormalise(module)
        if is_norm(module) or _iterates(module):
            stay_in_eval(module)


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
        if is_norm(module) or _iterates(module):
            follow_mode(module, training)


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
        rows = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
        limits = embedding.max_norm, embedding.norm_type
        torch.embedding_renorm_(embedding.weight, rows, *limits)
        setattr(embedding, _MAX_NORM, embedding.max_norm)
        embedding.max_norm = None


_MAX_NORM = "_max_norm_before_freezing"


def _iterates(module: nn.Module) -> bool:
    """Whether a hook of the older ``spectral_norm`` updates the weight in training mode."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
