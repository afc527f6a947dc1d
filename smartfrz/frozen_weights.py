"""Detection of optimizers that change frozen weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smartfrz.layers import Layer

_WATCHED_STEPS = 16
_SAMPLES = 64


class FrozenWeightWatch:
    """Compares frozen weights before and after the next steps of an optimizer.

    PyTorch's optimizers skip parameters without a gradient. Others decay or average every
    parameter and change frozen weights silently (OpenPCDet#845, fast-reid#178). Which of the two an
    optimizer does shows in the first steps after a freeze, so only these are watched: the cost of
    all other steps is zero. A sample of each parameter is compared. Weights that are changed
    between two steps of the optimizer, such as by loading a checkpoint, are not reported.

    The result is read after the first step, after the last one watched, and at the next freeze: the
    only times at which the host waits for the device.

    Args:
        optimizer: the optimizer, or a wrapper with the attribute ``optimizer``.
        layers: the frozen layers.
    """

    def __init__(self, optimizer: Optimizer | None = None, layers: Sequence[Layer] = ()) -> None:
        self._layers = list(layers)
        self._steps = self._read_steps = 0
        self._handles: list[Any] = []
        self._before: list[Tensor] = []
        self._moved: list[Tensor] = []
        if optimizer is not None and self._layers:
            inner = _innermost(optimizer)
            self._handles = [
                inner.register_step_pre_hook(self._note_before),
                inner.register_step_post_hook(self._compare),
            ]

    def moved(self, is_last: bool = False) -> list[str]:
        """Returns the names of layers that a watched step has changed.

        Args:
            is_last: whether to read the result now; otherwise it is read after the first step and
                after the last one watched, and nothing is returned at other times.
        """
        is_due = is_last or self._steps in (1, _WATCHED_STEPS)
        if self._steps == self._read_steps or not is_due:
            return []
        self._read_steps = self._steps
        moved = torch.stack([each.cpu() for each in self._moved]).tolist()
        return [layer.name for layer, is_moved in zip(self._layers, moved, strict=True) if is_moved]

    def end(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note_before(self, *_: Any) -> None:
        self._before = [_sample(layer) for layer in self._layers]

    def _compare(self, *_: Any) -> None:
        after = [_sample(layer) for layer in self._layers]
        # A NaN differs from itself, but has not moved.
        moved = [
            ((a != b) & ~(a.isnan() & b.isnan())).any()
            for a, b in zip(self._before, after, strict=True)
        ]
        earlier = self._moved or moved
        self._moved = [a | b for a, b in zip(earlier, moved, strict=True)]
        self._steps += 1
        if self._steps == _WATCHED_STEPS:
            self.end()


def _innermost(optimizer: Any) -> Optimizer:
    """Returns the optimizer inside wrappers, such as Accelerate's."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


@torch.no_grad()
def _sample(layer: Layer) -> Tensor:
    """Returns evenly spaced weights of a layer, a copy: (n,) float32."""
    flat = [param.detach().reshape(-1) for param in layer.params]
    sampled = [each[:: max(1, len(each) // _SAMPLES)] for each in flat]
    # A complex number is two real ones.
    real = [torch.view_as_real(each).reshape(-1) if each.is_complex() else each for each in sampled]
    return torch.cat([each.float() for each in real])
