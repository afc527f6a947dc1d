"""What is recorded of the layers for the predictor: their weights, or their outputs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors, samples_in
from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.predictor.attention import has_moved, is_finite
from smartfrz.predictor.encodings import Encoding
from smartfrz.predictor.history import PREVIOUS, WeightHistory
from smartfrz.predictor.outputs import FRACTIONS, OutputDrift, squared_displacement
from smartfrz.predictor.tailoring import Tailor


class Record(NamedTuple):
    """A record of all L layers.

    Attributes:
        encoded: (L, size) inputs of the predictor.
        moved: (L,) bool, whether the layer has changed since the record before.
        finite: (L,) bool, whether its numbers are finite.
    """

    encoded: Tensor
    moved: Tensor
    finite: Tensor


class Records(Protocol):
    """What is recorded, with the history that later records are compared with."""

    history: WeightHistory

    def record(self, layers: Sequence[Layer]) -> Record:
        """Adds a record of ``layers``, see `WeightHistory.record`."""

    def state_dict(self) -> dict[str, Any]:
        """Returns all that later records depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""


class WeightRecords:
    """Records of the layers' tailored weights (Sec. 3.2).

    Args:
        encoding: the encoding of the weights.
        size: number of weights to record per layer.
    """

    def __init__(self, encoding: Encoding, size: int) -> None:
        self.encoding, self.history = encoding, WeightHistory(size)

    def record(self, layers: Sequence[Layer]) -> Record:
        """Adds the current weights of ``layers``."""
        weights = self.history.record(layers)
        encoded = self.encoding.encode(weights, self.history.earlier(self.encoding.fractions))
        previous = self.history.earlier((PREVIOUS,))
        return Record(encoded, has_moved(weights, previous), is_finite(weights))

    def state_dict(self) -> dict[str, Any]:
        """Returns the history."""
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self.history.load_state_dict(state)


class OutputRecords:
    """Records of the layers' outputs on a probe, of which the predictor reads the `OutputDrift`.

    Each record takes a forward pass of the probe, in eval mode.

    Args:
        model: the model.
        probe: batches of inputs, see `gram_vectors`.
        rates: returns the learning rates of parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Sequence[Inputs],
        rates: Callable[[Iterable[Tensor]], list[float]],
    ) -> None:
        self.rates, self._drift = rates, OutputDrift()
        self.history = WeightHistory(
            sum(samples_in(batch) ** 2 for batch in probe),
            lambda layers: gram_vectors(model, layers, probe).float(),
        )
        self._tailor = Tailor()
        # Of all layers, at the last record of each.
        self._weights, self._rates, self._numel = (torch.zeros(0) for _ in range(3))

    def record(self, layers: Sequence[Layer]) -> Record:
        """Adds the current outputs of ``layers``."""
        outputs = self.history.record(layers)
        displacement = self._displacement(layers)
        self._rates[self.history.rows] = torch.tensor(
            self.rates(layer.params[0] for layer in layers)
        )
        similarity = [
            torch.linalg.vecdot(outputs, self.history.before(fraction)) for fraction in FRACTIONS
        ]
        encoded = self._drift.add(
            torch.stack(similarity, dim=1), displacement, self._rates, self.history.rows
        )
        has_changed = has_moved(outputs, self.history.before(PREVIOUS))
        return Record(encoded, has_changed, is_finite(outputs))

    def _displacement(self, layers: Sequence[Layer]) -> Tensor:
        """Updates the weights of ``layers``, and returns the displacement of all, squared."""
        current = self._tailor.all(layers)
        if self.history.is_first:
            self._weights, self._rates = current, torch.zeros(len(layers))
            self._numel = torch.tensor([sum(p.numel() for p in layer.params) for layer in layers])
        before = self._weights.to(current.device)
        self._weights = before.clone()
        self._weights[self.history.rows] = current
        both = torch.stack([before, self._weights])
        return squared_displacement(both, self._numel.to(current.device))[1]

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, and what the drift is relative to."""
        return {
            **self.history.state_dict(),
            "weights": self._weights,
            "rates": self._rates.clone(),
            "numel": self._numel,
            "drift": self._drift.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self.history.load_state_dict(state)
        self._weights, self._numel = state["weights"], state["numel"]
        self._rates = state["rates"].clone()
        self._drift.load_state_dict(state["drift"])
