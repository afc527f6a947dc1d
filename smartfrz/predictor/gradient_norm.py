"""The norm of the heads' gradients, which tells when a task has changed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor.gradient_agreement import is_compared
from smartfrz.predictor.tailoring import Tailor


class GradientNorm:
    """The root mean square of the heads' gradient norms in the last steps before each record.

    The heads always train, and their gradients grow with the loss. Not in the paper.

    Args:
        interval: steps between two records.
        size: number of sampled weights per layer.

    Attributes:
        newest: the value before the last record; NaN if there is none.
    """

    def __init__(self, interval: int, size: int) -> None:
        self.interval, self.newest = interval, math.nan
        self._tailor = Tailor(size)
        self._squares: list[Tensor] = []

    def observe(self, heads: Sequence[Layer], step: int) -> None:
        """Adds a step's gradients; called at every step, after its backward pass."""
        if is_compared(step, self.interval):
            read = [self._tailor.gradient(layer) for layer in heads]
            found = [gradient.square().sum() for gradient in read if gradient is not None]
            if found:
                self._squares.append(
                    torch.stack([each.to(found[0].device) for each in found]).sum()
                )
        if step % self.interval == 0 and self._squares:
            squares = torch.stack([each.cpu() for each in self._squares])
            squares = squares[squares.isfinite()]  # gradients overflow with a GradScaler
            if len(squares):
                self.newest = squares.mean().sqrt().item()
            self._squares = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the norms since the last record, and the value before it."""
        return {"squares": list(self._squares), "newest": self.newest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._squares, self.newest = list(state["squares"]), state["newest"]
