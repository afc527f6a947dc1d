"""AutoFreeze: the front layers freeze once their gradient norms have settled.

Liu et al., "AutoFreeze: Automatically Freezing Model Blocks to Accelerate Fine-tuning", 2021
(arXiv:2102.01386); SmartFRZ, Appendix B.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer


def next_start(
    previous_norms: Sequence[float] | Tensor,
    current_norms: Sequence[float] | Tensor,
    start: int,
    percentile: float = 50.0,
) -> int:
    """How far the frozen prefix reaches after an interval (Liu et al., 2021).

    A block's rate of change is |previous - current| / previous; from zero to zero it is 0, and from
    zero to anything else infinite. Blocks whose rate is strictly below the percentile of all the
    rates have converged; they freeze from the front, up to the first that has not. Nothing
    freezes where a rate is NaN.

    Args:
        previous_norms: (blocks,) norms of the interval before. Those of frozen blocks are ignored.
        current_norms: (blocks,) norms of the interval that has just ended, likewise.
        start: the index of the first block that trains now.
        percentile: N, in [0, 100].

    Returns:
        The index of the first block that trains from now on, never less than ``start``.
    """
    previous = torch.as_tensor(previous_norms, dtype=torch.float64, device="cpu")[start:]
    current = torch.as_tensor(current_norms, dtype=torch.float64, device="cpu")[start:]
    if not len(current):
        return start
    change = (previous - current).abs()
    rates = torch.where(change == 0, 0.0, change / previous)
    # Between two infinities the percentile would be NaN.
    rates = rates.clamp(max=torch.finfo(rates.dtype).max)
    converged = rates < torch.quantile(rates, percentile / 100)
    return start + int(converged.long().cumprod(0).sum())


class AutoFreeze:
    """Policy: freezes the front layers whose summed gradients changed least in norm.

    Gradients are summed element by element over an interval, and a layer's score is the norm of
    the sum over all its parameters. From the second interval on, `next_start` tells which
    layers freeze. The head takes no part.

    The norm is L1, as in AutoFreeze's own code; SmartFRZ (Section 4.2) speaks of L2: ``norm=2``.

    The gradients are those that `layers_to_freeze` finds: with a ``GradScaler``, unscale them
    before. An overflow spoils the interval it falls in and the comparison with the next: neither
    freezes anything.

    Args:
        steps_per_epoch: optimizer steps in an epoch.
        intervals_per_epoch: M, the evaluations in an epoch, up to ``steps_per_epoch``; as even as
            whole steps allow, the last one at the end of the epoch.
        percentile: N, in [0, 100]: the higher, the more freezes.
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
                f"intervals_per_epoch={intervals_per_epoch} has to be at least 1 and at most "
                f"steps_per_epoch={steps_per_epoch}: an interval lasts one step or more."
            )
        if not 0.0 <= percentile <= 100.0:
            raise ValueError(f"percentile={percentile} has to be between 0 and 100.")
        self.steps_per_epoch = steps_per_epoch
        self.intervals_per_epoch = intervals_per_epoch
        self.percentile = percentile
        self.norm = norm
        self._sums: dict[str, list[Tensor]] = {}
        self._restored_sums: dict[str, list[Tensor]] = {}
        self._scores: dict[str, float] = {}

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Adds up this step's gradients; at the end of an interval, returns what has converged.

        Args:
            active: the layers that still train, in execution order, the head included.
            step: the index of the optimizer step about to be taken.
        """
        blocks = [layer for layer in active if not layer.is_head]
        self._add_gradients(blocks)
        if not blocks or not self.is_due(step):
            return []
        previous, self._scores = self._scores, self._score(blocks)
        if not previous:
            return []
        names = [layer.name for layer in blocks]
        count = next_start(
            [previous[name] for name in names],
            [self._scores[name] for name in names],
            start=0,
            percentile=self.percentile,
        )
        for name in names[:count]:
            del self._sums[name]
        return blocks[:count]

    def is_due(self, step: int) -> bool:
        """Whether an interval ends with ``step``: the k-th, at floor(k steps_per_epoch / M)."""
        done = step % self.steps_per_epoch + 1
        k = -(-done * self.intervals_per_epoch // self.steps_per_epoch)
        return k * self.steps_per_epoch // self.intervals_per_epoch == done

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly, in the middle of an interval too."""
        return {"sums": {**self._restored_sums, **self._sums}, "scores": dict(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._sums = {}
        self._restored_sums = dict(state["sums"])
        self._scores = dict(state["scores"])

    def _add_gradients(self, blocks: Sequence[Layer]) -> None:
        sums: list[Tensor] = []
        grads: list[Tensor] = []
        for layer in blocks:
            for total, param in zip(self._sums_of(layer), layer.params, strict=True):
                if param.grad is not None:
                    sums.append(total)
                    grads.append(param.grad)
        if grads:
            torch._foreach_add_(sums, grads)

    def _sums_of(self, layer: Layer) -> list[Tensor]:
        """The layer's running sums, in 32 bits or more: 16 would round small gradients away."""
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
        """Each layer's norm of its summed gradient; begins the sums anew."""
        sums = [total for layer in blocks for total in self._sums[layer.name]]
        # One transfer for all the layers: each would wait for the device.
        norms = torch.stack(torch._foreach_norm(sums, self.norm)).double().cpu()
        torch._foreach_zero_(sums)
        norms_by_layer = norms.split([len(layer.params) for layer in blocks])
        return {
            layer.name: float(torch.linalg.vector_norm(each, self.norm))
            for layer, each in zip(blocks, norms_by_layer, strict=True)
        }
