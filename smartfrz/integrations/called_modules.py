"""The modules that are called in a step of training, with their inputs."""

from typing import Any

import torch
from torch import nn

from smartfrz.graph import Inputs
from smartfrz.integrations.first_inputs import merged, one_example


class CalledModules:
    """Notes the modules that are called from outside of all others, until `end`.

    Args:
        model: the modules that are watched are this one and all inside it.

    Attributes:
        inputs: one example of the first inputs of each called module that has parameters, by its
            name in ``model``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, Inputs] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._is_forward_pass: list[bool] = []  # of the calls under way, the innermost last
        self._handles: list[Any] = []
        for module in self._names:
            self._handles += [
                module.register_forward_pre_hook(self._enter, with_kwargs=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]

    def end(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.compiler.disable
    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_forward_pass = not _is_redirected(module)
        is_outermost = is_forward_pass and not any(self._is_forward_pass)
        if is_outermost and any(True for _ in module.parameters()):
            inputs = one_example(merged(module, args, kwargs))
            self.inputs.setdefault(self._names[module], inputs)
        self._is_forward_pass.append(is_forward_pass)

    @torch.compiler.disable
    def _leave(self, *_: Any) -> None:
        self._is_forward_pass.pop()


def _is_redirected(module: nn.Module) -> bool:
    """Whether Lightning calls ``training_step`` by way of ``forward``, as for a wrapped module."""
    return ".strategies." in getattr(vars(module).get("forward"), "__module__", "")
