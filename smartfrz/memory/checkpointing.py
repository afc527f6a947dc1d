"""Detection of gradients lost to reentrant checkpointing above a frozen prefix."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from smartfrz.layers import Layer


class GradientWatch:
    """Detects layers that only run with autograd disabled in the next forward passes.

    A reentrant checkpoint runs its layers with autograd disabled, and again in the backward pass.
    The second run is omitted if none of its inputs requires a gradient, as above a frozen prefix,
    and its layers then silently receive no gradients (transformers#21381). A layer that is merely
    skipped for a step (layer drop, another task's head) does not run at all and is not reported.
    ``torch.jit.script``, which would compile the hooks, ends the watch.

    Args:
        layers: the layers to watch.
    """

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        self._reached_autograd: dict[str, bool] = {}
        self._handles: list[RemovableHandle] = []
        self._modules: list[Any] = []
        for layer in layers:
            for module in layer.modules:
                hook = partial(self._note, layer.name)
                self._handles.append(module.register_forward_hook(hook))
                self._modules.append(module)
        for module in self._modules:
            # Called by TorchScript on all modules before it compiles the first one.
            module.__prepare_scriptable__ = partial(self._end_at, module)

    def end(self) -> list[str]:
        """Stops watching; returns the names of the layers that ran only with autograd disabled."""
        for handle in self._handles:
            handle.remove()
        for module in self._modules:
            vars(module).pop("__prepare_scriptable__", None)
        return [name for name, reached in self._reached_autograd.items() if not reached]

    def _end_at(self, module: nn.Module) -> nn.Module:
        self.end()
        return module

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not module.training and not torch.is_grad_enabled():
            return  # evaluation
        before = self._reached_autograd.get(name, False)
        self._reached_autograd[name] = before or torch.is_grad_enabled()
