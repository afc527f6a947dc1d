"""Similarity-guided freezing, the oracle of Table 1 (Section 3.4)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.policies.intervals import checked_interval
from smartfrz.predictor import WeightHistory


class SimilarityGuided:
    """Policy: the oracle that labels the predictor's training data (Table 1).

    A layer freezes when its CKA to the same layer of an already trained reference model
    (Section 3.4) has changed by at most ``tolerance`` since the previous measurement. Nothing is
    frozen if no layer's weights have moved since then, as when a `GradScaler` skips steps. In
    practice, no such reference is available.

    Args:
        model: the model to train.
        reference: the trained model, of the same architecture.
        probe: batches of inputs on which the two models are compared.
        interval: steps between two measurements; one epoch in the paper.
        tolerance: largest change of CKA that counts as stable.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        probe: Iterable[Inputs],
        interval: int,
        tolerance: float = 0.01,
    ) -> None:
        self.model, self.reference, self.probe = model, reference, list(probe)
        self.interval, self.tolerance = checked_interval(interval), tolerance
        self._last: dict[str, float] = {}
        self._of_reference: dict[str, Tensor] = {}
        self._weights = WeightHistory()

    def is_due(self, step: int) -> bool:
        """Whether this step measures the similarity: the last step of each interval."""
        return (step + 1) % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose CKA has stabilised."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        similarity = self._similarity(candidates)
        # NaN (constant features, or no earlier measurement) compares false: the layer stays active.
        stable = [
            layer
            for layer, now in zip(candidates, similarity, strict=True)
            if abs(now - self._last.get(layer.name, math.nan)) <= self.tolerance
        ]
        self._last = {layer.name: s for layer, s in zip(candidates, similarity, strict=True)}
        self._weights.record(candidates)
        return stable if self._weights.has_moved else []

    def _similarity(self, layers: Sequence[Layer]) -> list[float]:
        missing = [layer for layer in layers if layer.name not in self._of_reference]
        if missing:
            vectors = gram_vectors(self.reference, missing, self.probe)
            names = [layer.name for layer in missing]
            self._of_reference |= dict(zip(names, vectors, strict=True))
        reference = torch.stack([self._of_reference[layer.name] for layer in layers])
        return torch.linalg.vecdot(gram_vectors(self.model, layers, self.probe), reference).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Returns the similarities of the last measurement, and the weights so far."""
        return {"last": dict(self._last), "weights": self._weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the similarities of the last measurement, and the weights so far."""
        self._last = dict(state["last"])
        self._weights.load_state_dict(state["weights"])
