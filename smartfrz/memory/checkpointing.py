"""Reentrant activation checkpointing above a frozen prefix: noticed, since nothing else says so."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from smartfrz.layers import Layer


class GradientWatch:
    """Watches whether layers that train reach autograd in the forward passes to come.

    A reentrant checkpoint runs its layers with autograd off, and once more in the backward pass,
    unless none of its inputs requires a gradient, as is the case above a frozen prefix: then its
    layers get no gradients, without an error (transformers#21381). A layer that merely sat out a
    step (layer drop, another task's head) did not run at all.

    Args:
        layers: the layers to watch.
    """

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        self._reached_autograd: dict[str, bool] = {}
        self._handles = [
            module.register_forward_hook(partial(self._note, layer.name))
            for layer in layers
            for module in layer.modules
        ]

    def end(self) -> list[str]:
        """Stops watching; the names of the layers that ran, but only with autograd off."""
        for handle in self._handles:
            handle.remove()
        return [name for name, reached in self._reached_autograd.items() if not reached]

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not module.training and not torch.is_grad_enabled():
            return  # an evaluation
        before = self._reached_autograd.get(name, False)
        self._reached_autograd[name] = before or torch.is_grad_enabled()
