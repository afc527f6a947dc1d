"""How much the gradients of successive batches agree, which tells a plateau from convergence."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor.tailoring import Tailor

PAIRS = 8
"""Pairs of successive steps that are compared before each record."""

_SIGNIFICANT = 4.0
_FALLEN = 1 / 3
_IN_A_ROW = 3


def is_compared(step: int, interval: int) -> bool:
    """Whether a step is among the last before a record, or that of the record."""
    return -step % interval <= PAIRS


class GradientAgreement:
    """The mean cosine between the gradients of successive steps, and its peak in the run so far.

    While a network learns, its gradients have a common direction. They have little of it on a
    plateau at the start, and little again once the network has converged: there is a peak in
    between. Without one, nothing has been learned yet. Not in the paper.

    Only the last `PAIRS` steps before each record are compared, on the sampled weights of the
    layers, which costs little. The cosine does not depend on the scale of the loss.

    Args:
        interval: steps between two records.
        size: number of sampled weights per layer.
    """

    def __init__(self, interval: int, size: int) -> None:
        self.interval = interval
        self._tailor = Tailor(size)
        self.reset()

    def reset(self) -> None:
        """Forgets the peak: another has to follow."""
        self._previous: dict[str, Tensor] = {}
        self._cosines: list[Tensor] = []
        self._mean, self._peak, self._low = math.nan, 0.0, 0

    def observe(self, layers: Sequence[Layer], step: int) -> None:
        """Compares a step's gradients with those of the step before; called at every step.

        Args:
            layers: the layers that train.
            step: the index of the step, whose backward pass is complete.
        """
        until_record = -step % self.interval
        if is_compared(step, self.interval):
            self._compare(layers, is_first=until_record == PAIRS < self.interval)
        if until_record == 0:
            self._record()

    @property
    def has_fallen(self) -> bool:
        """Whether the agreement has been at most a third of its peak for several records.

        It is a running mean, of which the newest record makes up half. False without a peak that
        differs significantly from zero.
        """
        return self._low >= _IN_A_ROW

    def state_dict(self) -> dict[str, Any]:
        """Returns the cosines since the last record, and the peak."""
        return {
            "previous": dict(self._previous),
            "cosines": list(self._cosines),
            "mean": self._mean,
            "peak": self._peak,
            "low": self._low,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._previous, self._cosines = dict(state["previous"]), list(state["cosines"])
        self._mean, self._peak, self._low = state["mean"], state["peak"], state["low"]

    def _compare(self, layers: Sequence[Layer], is_first: bool) -> None:
        read = {layer.name: self._tailor.gradient(layer) for layer in layers}
        current = {name: gradient for name, gradient in read.items() if gradient is not None}
        both = [name for name in current if name in self._previous]
        if both and not is_first:
            device = current[both[0]].device
            now = torch.stack([current[name].to(device) for name in both]).flatten()
            then = torch.stack([self._previous[name].to(device) for name in both]).flatten()
            self._cosines.append(torch.cosine_similarity(now, then, dim=0))
        self._previous = current

    def _record(self) -> None:
        """Takes the mean of enough cosines; the only place that waits for a GPU."""
        if len(self._cosines) < PAIRS:
            return
        cosines = torch.stack([each.cpu() for each in self._cosines]).double()
        self._cosines = []
        cosines = cosines[cosines.isfinite()]  # gradients overflow with a GradScaler
        if len(cosines) < PAIRS / 2:
            return
        mean, error = cosines.mean().item(), cosines.std().item() / math.sqrt(len(cosines))
        self._mean = mean if math.isnan(self._mean) else (self._mean + mean) / 2
        if mean > _SIGNIFICANT * error:
            self._peak = max(self._peak, self._mean)
        is_low = self._peak > 0 and self._mean <= _FALLEN * self._peak
        self._low = self._low + 1 if is_low else 0
