"""A rule without learning: a layer freezes once its weights hardly move any more."""

from collections.abc import Sequence
from typing import Any

import torch

from smartfrz.layers import Layer
from smartfrz.predictor import PREVIOUS, WeightHistory, judged_by


class DisplacementRule:
    """Policy: freezes a layer when ``|w_t - w_(t-1)| / |w_t|`` is below a threshold.

    ``w_t`` is the layer's t-th record: its tailored weights, as SmartFRZ's predictor gets them;
    norms are Euclidean. It takes two records to tell. A layer that has not moved at all has not
    been trained yet, as in a warm-up that begins at learning rate zero, and goes on. An embedding
    freezes with the layer behind it, see `judged_by`.

    Args:
        interval: steps between two records. The displacement is over these steps, so that the
            threshold goes with the interval.
        threshold: the relative displacement below which a layer is done.
        size: how many weights of a layer to record.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(self, interval: int, threshold: float, size: int = 1024) -> None:
        if interval < 1:
            raise ValueError(f"An interval is at least 1, not {interval}.")
        self.interval = interval
        self.threshold = threshold
        self._history = WeightHistory(size)

    def is_due(self, step: int) -> bool:
        """Whether this step records and decides."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """The layers that hardly moved since the record before."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        weights = self._history.record(candidates)
        # Before a layer's first record there is none: it counts as not moved.
        moved = torch.linalg.vector_norm(weights - self._history.earlier((PREVIOUS,)), dim=1)
        # A NaN compares false: the layer goes on training.
        done = (moved > 0) & (moved < self.threshold * torch.linalg.vector_norm(weights, dim=1))
        of_candidates = done[self._history.rows][judged_by(candidates)].tolist()
        return [layer for layer, is_done in zip(candidates, of_candidates, strict=True) if is_done]

    def state_dict(self) -> dict[str, Any]:
        """The last records."""
        return self._history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the last records."""
        self._history.load_state_dict(state)
