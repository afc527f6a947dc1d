"""AutoFreeze, a baseline that freezes a growing prefix by changes of gradient norms.

Liu et al., "AutoFreeze: Automatically Freezing Model Blocks to Accelerate Fine-tuning", 2021
(arXiv:2102.01386); SmartFRZ, Appendix B.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.sharding import full


def next_start(
    previous_norms: Sequence[float] | Tensor,
    current_norms: Sequence[float] | Tensor,
    start: int,
    percentile: float = 50.0,
) -> int:
    """Returns the end of the frozen prefix after an interval (Liu et al., 2021).

    A block's rate of change is |previous - current| / previous; it is 0 from zero to zero, and
    infinite from zero to any other norm. Blocks with a rate strictly below the percentile of all
    rates have converged. They freeze in order, up to the first block that has not. Nothing freezes
    if any rate is NaN.

    Args:
        previous_norms: (blocks,) norms of the previous interval. Those of frozen blocks are
            ignored.
        current_norms: (blocks,) norms of the interval that has just ended, likewise.
        start: the index of the first block that currently trains.
        percentile: N, in [0, 100].

    Returns:
        The index of the first block that keeps training, never less than ``start``.
    """
    previous = torch.as_tensor(previous_norms, dtype=torch.float64, device="cpu")[start:]
    current = torch.as_tensor(current_norms, dtype=torch.float64, device="cpu")[start:]
    if not len(current):
        return start
    change = (previous - current).abs()
    rates = torch.where(change == 0, 0.0, change / previous)
    # The percentile between two infinities would be NaN.
    rates = rates.clamp(max=torch.finfo(rates.dtype).max)
    converged = rates < torch.quantile(rates, percentile / 100)
    return start + int(converged.long().cumprod(0).sum())


class _Added(NamedTuple):
    """What a step adds to: all parameters of the blocks of these names, and their sums."""

    names: list[str]
    params: list[Tensor]
    sums: list[Tensor]


class AutoFreeze:
    """Policy: freezes the first layers if the norms of their summed gradients changed least.

    Gradients are summed element by element over an interval, and a layer's score is the norm of
    the sums of all its parameters. From the second interval on, `next_start` determines the layers
    to freeze. The head is not scored, nor is a layer that was selected before and still trains, see
    `Gathered`. A layer that trains again after it was frozen is treated as new: nothing freezes
    until all layers have been scored twice.

    The norm is L1, as in AutoFreeze's code; SmartFRZ (Section 4.2) mentions L2: ``norm=2``.

    The gradients are those present when `layers_to_freeze` is called; with a ``GradScaler``,
    unscale them before. After an overflow, its interval and the next one freeze nothing.

    Args:
        steps_per_epoch: optimizer steps per epoch.
        intervals_per_epoch: M, the number of intervals per epoch, at most ``steps_per_epoch``; as
            even as whole steps allow, the last one ending with the epoch.
        percentile: N, in [0, 100]; a higher one freezes more.
        norm: the order of the norm.

    Raises:
        ValueError: ``intervals_per_epoch`` or ``percentile`` is out of range.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        intervals_per_epoch: int = 4,
        percentile: float = 50.0,
        norm: float = 1.0,
    ) -> None:
        if not 1 <= intervals_per_epoch <= steps_per_epoch:
            raise ValueError(
                f"intervals_per_epoch={intervals_per_epoch} must be at least 1 and at most "
                f"steps_per_epoch={steps_per_epoch}, because an interval has at least one step."
            )
        if not 0.0 <= percentile <= 100.0:
            raise ValueError(f"percentile={percentile} must be between 0 and 100.")
        self.steps_per_epoch = steps_per_epoch
        self.intervals_per_epoch = intervals_per_epoch
        self.percentile = percentile
        self.norm = norm
        self._sums: dict[str, list[Tensor]] = {}
        self._restored_sums: dict[str, list[Tensor]] = {}
        self._scores: dict[str, float] = {}
        self._selected: set[str] = set()
        self._added: _Added | None = None

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Adds this step's gradients; returns the layers to freeze at the end of an interval.

        Args:
            active: the layers that still train, in execution order, the head included.
            step: the index of the optimizer step about to be taken.
        """
        self._selected &= {layer.name for layer in active}
        blocks = [b for b in active if not b.is_head and b.name not in self._selected]
        self._add_gradients(blocks)
        if not blocks or not self.is_due(step):
            return []
        previous, self._scores = self._scores, self._score(blocks)
        if not previous:
            return []
        names = [layer.name for layer in blocks]
        count = next_start(
            [previous.get(name, math.nan) for name in names],
            [self._scores[name] for name in names],
            start=0,
            percentile=self.percentile,
        )
        for name in names[:count]:
            del self._sums[name]
        self._added = None
        self._selected.update(names[:count])
        return blocks[:count]

    def is_due(self, step: int) -> bool:
        """Whether an interval ends with ``step``: the k-th, at floor(k steps_per_epoch / M)."""
        steps = step % self.steps_per_epoch + 1
        k = -(-steps * self.intervals_per_epoch // self.steps_per_epoch)
        return k * self.steps_per_epoch // self.intervals_per_epoch == steps

    def state_dict(self) -> dict[str, Any]:
        """Returns the state from which a run resumes exactly, even within an interval."""
        return {
            "sums": {**self._restored_sums, **self._sums},
            "scores": dict(self._scores),
            "selected": sorted(self._selected),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._sums, self._added = {}, None
        self._restored_sums = dict(state["sums"])
        self._scores = dict(state["scores"])
        self._selected = set(state["selected"])

    def _add_gradients(self, blocks: Sequence[Layer]) -> None:
        names = [layer.name for layer in blocks]
        if self._added is None or self._added.names != names:
            self._added = _Added(
                names,
                [param for layer in blocks for param in layer.params],
                [total for layer in blocks for total in self._sums_of(layer)],
            )
        grads = [param.grad for param in self._added.params]
        pairs = zip(self._added.sums, grads, strict=True)
        sums = [total for total, grad in pairs if grad is not None]
        if sums:
            torch._foreach_add_(sums, [grad for grad in grads if grad is not None])

    def _sums_of(self, layer: Layer) -> list[Tensor]:
        """Returns the layer's running sums, in 32 bits or more: 16 would lose small gradients."""
        if layer.name not in self._sums:
            sums = [
                torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))
                for param in layer.params
            ]
            if layer.name in self._restored_sums:
                torch._foreach_copy_(sums, self._restored_sums.pop(layer.name))
            self._sums[layer.name] = sums
        return self._sums[layer.name]

    def _score(self, blocks: Sequence[Layer]) -> dict[str, float]:
        """Returns the norm of each layer's summed gradients and resets the sums."""
        sums = [total for layer in blocks for total in self._sums[layer.name]]
        # One transfer for all layers, since each transfer waits for the device.
        norms = full(torch.stack(torch._foreach_norm(sums, self.norm))).double().cpu()
        torch._foreach_zero_(sums)
        norms_by_layer = norms.split([len(layer.params) for layer in blocks])
        return {
            layer.name: float(torch.linalg.vector_norm(each, self.norm))
            for layer, each in zip(blocks, norms_by_layer, strict=True)
        }
