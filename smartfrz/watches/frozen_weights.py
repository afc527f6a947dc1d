"""Detection of optimizers that change frozen weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smartfrz.distributed import gathered
from smartfrz.graph import memory_of
from smartfrz.layers import Layer
from smartfrz.optimizers import optimizers_in, with_step_hooks
from smartfrz.sharding import local

_WATCHED_STEPS = 16
_SAMPLES = 64


class FrozenWeightWatch:
    """Compares frozen weights before and after the next steps of an optimizer.

    PyTorch's optimizers skip parameters without a gradient. Others decay or average every
    parameter and change frozen weights silently (OpenPCDet#845, fast-reid#178). Which of the two an
    optimizer does shows in the first steps after a freeze, so only these are watched: the cost of
    all other steps is zero. A sample of each layer's largest parameter is compared. Weights that
    are changed between two steps of the optimizer, such as by loading a checkpoint, are not
    reported.

    The result is read after the first step, after the last one watched, and at the next freeze: the
    only times at which the host waits for the device.

    Args:
        optimizer: the optimizer, or several of them; see `optimizers_in`.
        layers: the frozen layers.
    """

    def __init__(self, optimizer: Any = None, layers: Sequence[Layer] = ()) -> None:
        self._params = {
            layer.name: max(layer.params, key=Tensor.numel) for layer in layers if layer.params
        }
        self._optimizer = optimizer
        self._steps = self._read_steps = 0
        self._first: Optimizer | None = None
        self._handles: list[Any] = []
        self._sizes: list[int] = []
        self._before: Tensor | None = None
        self._moved = torch.zeros(0)
        for each in with_step_hooks(optimizer) if self._params else []:
            self._handles += [
                each.register_step_pre_hook(self._note_before),
                each.register_step_post_hook(self._compare),
            ]

    def check(self, is_last: bool = False) -> None:
        """Raises an error if a watched step has changed frozen layers.

        Args:
            is_last: whether to read the result now; otherwise it is read after the first step and
                after the last one watched, and nothing is raised at other times.
        """
        if moved := self._moved_layers(is_last):
            names = dict.fromkeys(type(each).__name__ for each in optimizers_in(self._optimizer))
            raise RuntimeError(
                f"{' or '.join(names)} changed the frozen layers {moved}: it also updates "
                "parameters without a gradient, for example by decaying or averaging them. Use an "
                "optimizer that skips parameters whose grad is None."
            )

    def _moved_layers(self, is_last: bool) -> list[str]:
        is_due = is_last or self._steps in (1, _WATCHED_STEPS)
        if self._steps == self._read_steps or not is_due:
            return []
        self._read_steps = self._steps
        parts = self._moved.cpu().split(self._sizes)
        moved = [name for name, part in zip(self._params, parts, strict=True) if part.any()]
        # Of a small sharded parameter, some processes hold no part.
        return [name for name in self._params if any(name in each for each in gathered(moved))]

    def end(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note_before(self, optimizer: Optimizer, *_: Any) -> None:
        # Of several optimizers, or one that steps inside another, the first begins the step.
        self._first = self._first or optimizer
        if optimizer is not self._first:
            return
        samples = [_sample(param) for param in self._params.values()]
        self._sizes = [len(each) for each in samples]
        self._before = _joined(samples)

    def _compare(self, optimizer: Optimizer, *_: Any) -> None:
        if self._before is None:
            return  # the layers were frozen by the closure of this step, as Lightning does
        after = _joined([_sample(param) for param in self._params.values()])
        # A NaN differs from itself, but has not moved.
        moved = (after != self._before) & ~(after.isnan() & self._before.isnan())
        self._moved = self._moved | moved if len(self._moved) else moved
        if optimizer is self._first:
            self._steps += 1
        if self._steps == _WATCHED_STEPS:
            self.end()


def _sample(param: Tensor) -> Tensor:
    """Returns evenly spaced elements of this process's part of a parameter, a view: (n,)."""
    memory = memory_of(local(param))
    sample = memory[:: max(1, len(memory) // _SAMPLES)]
    return torch.view_as_real(sample).reshape(-1) if sample.is_complex() else sample


def _joined(samples: list[Tensor]) -> Tensor:
    """Returns a copy of all samples in one tensor, on the device of the first."""
    return torch.cat([each.float().to(samples[0].device) for each in samples])
