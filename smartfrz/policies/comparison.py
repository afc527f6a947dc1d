"""The base of policies that compare the network with an earlier or another one, now and then."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.policies.intervals import checked_interval
from smartfrz.policies.probe_cost import check_batch_size, probe_cost
from smartfrz.predictor import WeightHistory

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer

T = TypeVar("T")


class PeriodicComparison(ABC, Generic[T]):
    """Policy: freezes layers by how a measurement differs from the previous one.

    The last step of each interval measures. Nothing is frozen if no layer's weights have moved
    since the previous measurement, as when a `GradScaler` skips steps.

    Args:
        interval: steps between two measurements.
        probe: batches of inputs. Each measurement takes a forward pass of them, in every process,
            which counts as compute spent.
        batch_size: the number of examples of an optimizer step, in all processes together. With a
            probe it is required: it says what an example of the probe costs, in steps.

    Attributes:
        passes: the number of forward passes of the probe so far.

    Raises:
        ValueError: ``interval`` is less than 1, or there is a probe without ``batch_size``.
    """

    def __init__(
        self, interval: int, probe: Iterable[Inputs] = (), batch_size: int | None = None
    ) -> None:
        self.interval = checked_interval(interval)
        self.probe, self.batch_size = list(probe), batch_size
        check_batch_size(self.probe, batch_size)
        self.passes = 0
        self._freezer: Freezer | None = None
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

    def attach(self, freezer: "Freezer") -> None:
        """Takes the costs of the freezer's model. Called by `Freezer`."""
        self._freezer = freezer

    @property
    def extra_compute(self) -> float:
        """The compute of the probe's forward passes so far, in steps with no layer frozen."""
        if self._freezer is None or not self.passes:
            return 0.0
        return self.passes * probe_cost(self._freezer, self.probe, self.batch_size)

    def is_due(self, step: int) -> bool:
        """Whether this step measures: the last step of each interval."""
        return (step + 1) % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose measurement has become stable."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        last, self._last = self._last, self.measured(candidates)
        self.passes += 1
        self._weights.record(candidates)
        return self.stable(candidates, last, self._last) if self._weights.has_moved else []

    def state_dict(self) -> dict[str, Any]:
        """Returns the last measurement, the weights so far and the number of passes."""
        return {
            "last": dict(self._last),
            "weights": self._weights.state_dict(),
            "passes": self.passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._last, self.passes = dict(state["last"]), state["passes"]
        self._weights.load_state_dict(state["weights"])
