"""How much the gradients of successive batches agree, which tells a plateau from convergence."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from smartfrz.policies.gradient_samples import PAIRS

_SIGNIFICANT = 4.0
_FALLEN = 1 / 3
_IN_A_ROW = 3
_NEWEST = 1 / 3


class GradientAgreement:
    """The mean cosine between the gradients of successive steps, and its peak in the run so far.

    While a network learns, its gradients have a common direction. They have little of it on a
    plateau at the start, and little again once the network has converged: there is a peak in
    between. Without one, nothing has been learned yet. Not in the paper.

    The cosine does not depend on the scale of the loss.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets the peak: another has to follow."""
        self._cosines: list[float] = []
        self._mean, self._peak, self._low = math.nan, 0.0, 0

    def record(self, cosines: Sequence[float]) -> None:
        """Takes the mean of the cosines, once there are `PAIRS` of them since the last mean.

        Args:
            cosines: between the gradients of successive steps since the last record. Those that
                are not finite, as when gradients overflow with a `GradScaler`, are left out.
        """
        self._cosines += cosines
        if len(self._cosines) < PAIRS:
            return
        finite = [each for each in self._cosines if math.isfinite(each)]
        self._cosines = []
        if len(finite) < PAIRS / 2:
            return
        mean, error = fmean(finite), stdev(finite) / math.sqrt(len(finite))
        before = mean if math.isnan(self._mean) else self._mean
        self._mean = before + _NEWEST * (mean - before)
        if mean > _SIGNIFICANT * error:
            self._peak = max(self._peak, self._mean)
        is_low = self._peak > 0 and self._mean + error <= _FALLEN * self._peak
        self._low = self._low + 1 if is_low else 0

    @property
    def has_fallen(self) -> bool:
        """Whether the agreement has been at most a third of its peak for several records.

        It is a running mean, of which the newest record makes up a third, and lies below the bound
        by a standard error of that record. False without a peak that differs significantly from
        zero.
        """
        return self._low >= _IN_A_ROW

    def state_dict(self) -> dict[str, Any]:
        """Returns the cosines since the last mean, and the peak."""
        return {
            "cosines": list(self._cosines),
            "mean": self._mean,
            "peak": self._peak,
            "low": self._low,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._cosines = list(state["cosines"])
        self._mean, self._peak, self._low = state["mean"], state["peak"], state["low"]
