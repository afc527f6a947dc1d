"""Detection of buffers of frozen layers that still change."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smartfrz.layers import Layer


class FrozenBufferWatch:
    """Compares the buffers of frozen layers at a freeze and in the next step.

    Some modules change their buffers in ways that eval mode does not end or that nobody can end in
    general: codebooks that are moving averages (vector-quantize-pytorch#68), biases that balance
    the load of experts, and batch norms in CUDA graphs that were captured before the freeze. The
    layer's output then still changes.

    Args:
        model: the model.
        layers: the frozen layers.
    """

    def __init__(self, model: nn.Module | None = None, layers: Sequence[Layer] = ()) -> None:
        modules = {
            part for layer in layers for module in layer.modules for part in module.modules()
        }
        self._before = [
            (f"{name}.{key}", module, key, buffer.clone())
            for name, module in (() if model is None else model.named_modules())
            if module in modules
            for key, buffer in module.named_buffers(recurse=False)
        ]

    def end(self) -> None:
        """Stops watching; warns if buffers have changed."""
        if not self._before:
            return
        flags = [_differ(module.get_buffer(key), old) for _, module, key, old in self._before]
        # One read, and not one of each buffer, for which the host would wait.
        found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
        names = (name for name, *_ in self._before)
        changed = [name for name, differs in zip(names, found, strict=True) if differs]
        self._before = []
        if changed:
            warnings.warn(
                f"The buffers {changed} of frozen layers still change, and with them the layers' "
                "outputs. Switch off their updates when a layer is frozen: Freezer.step returns "
                "the newly frozen layers.",
                stacklevel=4,
            )


def _differ(now: Tensor, before: Tensor) -> Tensor:
    """Whether two tensors differ, a bool on the device; a NaN equals another."""
    before = before.to(now.device)
    return ((now != before) & ~(now.isnan() & before.isnan())).any()
