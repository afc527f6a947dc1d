"""The displacement rule, a baseline without a learned predictor."""

from collections.abc import Sequence
from typing import Any

import torch

from smartfrz.layers import Layer
from smartfrz.policies import checked_interval
from smartfrz.predictor import PREVIOUS, WeightHistory, deciding_layers


class DisplacementRule:
    """Policy: freezes a layer when ``|w_t - w_(t-1)| / |w_t|`` is below a threshold.

    ``w_t`` is the layer's t-th record: its tailored weights, the input of SmartFRZ's predictor.
    Norms are Euclidean. The rule needs two records. A layer that has not moved at all is not
    frozen, because it has not been trained yet, as in a warmup that starts at learning rate zero.
    An embedding freezes together with the layer behind it, see `deciding_layers`.

    Args:
        interval: steps between two records. The displacement is over this interval, so the
            threshold depends on it.
        threshold: the relative displacement below which a layer has converged.
        size: number of weights to record per layer.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(self, interval: int, threshold: float, size: int = 1024) -> None:
        self.interval = checked_interval(interval)
        self.threshold = threshold
        self._history = WeightHistory(size)

    def is_due(self, step: int) -> bool:
        """Whether weights are recorded and layers may freeze at this step."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose displacement since the last record is below the threshold."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        weights = self._history.record(candidates)
        # At its first record, a layer counts as not moved.
        moved = torch.linalg.vector_norm(weights - self._history.earlier((PREVIOUS,)), dim=1)
        # NaN compares false: the layer is not frozen.
        norms = torch.linalg.vector_norm(weights, dim=1)
        converged = (moved > 0) & (moved < self.threshold * norms)
        of_candidates = converged[self._history.rows][deciding_layers(candidates)].tolist()
        return [layer for layer, freeze in zip(candidates, of_candidates, strict=True) if freeze]

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded history."""
        return self._history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a recorded history."""
        self._history.load_state_dict(state)
