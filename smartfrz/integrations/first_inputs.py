"""Example inputs of a model, taken from its first training batch."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from smartfrz.graph import Inputs


def note_first_inputs(model: nn.Module, note: Callable[[Inputs], None]) -> RemovableHandle:
    """Calls ``note`` with one example of the inputs of the next forward pass in training mode.

    Args:
        model: the module that is called with the inputs.
        note: called once, with inputs for `find_layers`.

    Returns:
        The hook's handle. The hook removes itself.
    """

    @torch.compiler.disable
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training:
            handle.remove()
            note(one_example(merged(module, args, kwargs)))

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    return handle


def one_example(inputs: Inputs) -> Inputs:
    """Cuts all tensors that are as long as the first one to their first element."""
    batch_size = next((len(each) for each in tree_leaves(inputs) if _has_rows(each)), 0)

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        is_batch = _has_rows(leaf) and len(leaf) == batch_size
        return (leaf[:1] if is_batch else leaf).detach().clone()

    return tree_map(cut, inputs)


def on_device_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """Returns inputs on the device of a model."""
    device = next(model.parameters()).device
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)


def merged(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Returns the arguments of a call: by position if all are, by name otherwise.

    Of arguments by name, those that ``torch.load(weights_only=True)`` would not accept are left
    out, such as caches.
    """
    if args and kwargs:
        kwargs = {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}
    if not kwargs:
        return args
    return {
        name: value for name, value in kwargs.items() if all(map(_is_plain, tree_leaves(value)))
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Tensor | bool | int | float | str)


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
