"""The base of policies that compare the network with an earlier or another one, now and then."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from smartfrz.layers import Layer
from smartfrz.policies.intervals import checked_interval
from smartfrz.predictor import WeightHistory

T = TypeVar("T")


class PeriodicComparison(ABC, Generic[T]):
    """Policy: freezes layers by how a measurement differs from the previous one.

    The last step of each interval measures. Nothing is frozen if no layer's weights have moved
    since the previous measurement, as when a `GradScaler` skips steps.

    Args:
        interval: steps between two measurements.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(self, interval: int) -> None:
        self.interval = checked_interval(interval)
        self._last: dict[str, T] = {}
        self._weights = WeightHistory()

    @abstractmethod
    def measured(self, layers: Sequence[Layer]) -> dict[str, T]:
        """Returns the measurement of each layer, by name."""

    @abstractmethod
    def stable(
        self, layers: Sequence[Layer], last: Mapping[str, T], now: Mapping[str, T]
    ) -> list[Layer]:
        """Returns the layers to freeze.

        Args:
            layers: the layers that train, without the heads, in execution order.
            last: the previous measurement, from which layers may be missing.
            now: the new one.
        """

    def is_due(self, step: int) -> bool:
        """Whether this step measures: the last step of each interval."""
        return (step + 1) % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose measurement has become stable."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        last, self._last = self._last, self.measured(candidates)
        self._weights.record(candidates)
        return self.stable(candidates, last, self._last) if self._weights.has_moved else []

    def state_dict(self) -> dict[str, Any]:
        """Returns the last measurement, and the weights so far."""
        return {"last": dict(self._last), "weights": self._weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the last measurement, and the weights so far."""
        self._last = dict(state["last"])
        self._weights.load_state_dict(state["weights"])
