"""Similarity-guided freezing, the oracle of Table 1 (Section 3.4)."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.policies.comparison import PeriodicComparison


class SimilarityGuided(PeriodicComparison[float]):
    """Policy: the oracle that labels the predictor's training data (Table 1).

    A layer freezes when its CKA to the same layer of an already trained reference model
    (Section 3.4) has changed by at most ``tolerance`` since the previous measurement. Nothing is
    frozen if no layer's weights have moved since then, as when a `GradScaler` skips steps. In
    practice, no such reference is available. The forward passes of the probe, that of the reference
    included, count as compute spent.

    Args:
        model: the model to train.
        reference: the trained model, of the same architecture.
        probe: batches of inputs on which the two models are compared.
        interval: steps between two measurements; one epoch in the paper.
        batch_size: the number of examples of an optimizer step, in all processes together.
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
        batch_size: int,
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(interval, probe, batch_size)
        self.model, self.reference = model, reference
        self.tolerance = tolerance
        self._of_reference: dict[str, Tensor] = {}

    def measured(self, layers: Sequence[Layer]) -> dict[str, float]:
        """Returns the CKA of each layer to that of the reference."""
        missing = [layer for layer in layers if layer.name not in self._of_reference]
        if missing:
            self.passes += self.passes == 0  # a resumed run repeats it, and spends the same
            vectors = gram_vectors(self.reference, missing, self.probe)
            names = [layer.name for layer in missing]
            self._of_reference |= dict(zip(names, vectors, strict=True))
        reference = torch.stack([self._of_reference[layer.name] for layer in layers])
        found = torch.linalg.vecdot(gram_vectors(self.model, layers, self.probe), reference)
        return {layer.name: each for layer, each in zip(layers, found.tolist(), strict=True)}

    def stable(
        self, layers: Sequence[Layer], last: Mapping[str, float], now: Mapping[str, float]
    ) -> list[Layer]:
        """Returns the layers whose CKA has stabilised."""
        # NaN (constant features, or no earlier measurement) compares false: the layer stays active.
        return [
            layer
            for layer in layers
            if abs(now[layer.name] - last.get(layer.name, math.nan)) <= self.tolerance
        ]
