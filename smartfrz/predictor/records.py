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
        self._weights = WeightHistory()
        self._latest: dict[str, float] = {}
        self._numel: dict[str, int] = {}

    def record(self, layers: Sequence[Layer]) -> Record:
        """Adds the current outputs of ``layers``."""
        outputs = self.history.record(layers)
        weights = self._weights.record(layers)
        names, of_all = [layer.name for layer in layers], self.history.names
        rates = self.rates(layer.params[0] for layer in layers)
        self._latest |= dict(zip(names, rates, strict=True))
        self._numel |= {layer.name: sum(p.numel() for p in layer.params) for layer in layers}
        moved = squared_displacement(
            torch.stack([self._weights.before(PREVIOUS), weights]),
            torch.tensor([self._numel[name] for name in of_all], device=weights.device),
        )[1]
        similarity = [
            torch.linalg.vecdot(outputs, self.history.before(fraction)) for fraction in FRACTIONS
        ]
        encoded = self._drift.add(
            torch.stack(similarity, dim=1),
            moved,
            torch.tensor([self._latest[name] for name in of_all]),
            self.history.rows,
        )
        has_changed = has_moved(outputs, self.history.before(PREVIOUS))
        return Record(encoded, has_changed, is_finite(outputs))

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, and what the drift is relative to."""
        return {
            **self.history.state_dict(),
            "weights": self._weights.state_dict(),
            "drift": self._drift.state_dict(),
            "rates": dict(self._latest),
            "numel": dict(self._numel),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self.history.load_state_dict(state)
        self._weights.load_state_dict(state["weights"])
        self._drift.load_state_dict(state["drift"])
        self._latest, self._numel = dict(state["rates"]), dict(state["numel"])
