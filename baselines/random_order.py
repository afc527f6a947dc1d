"""Random order, a control that freezes layers one after the other without a criterion."""

import math
import random
from collections.abc import Sequence
from typing import Any

from smartfrz.layers import Layer


def freeze_steps(layers: Sequence[str], total_steps: int, span: float, seed: int) -> dict[str, int]:
    """Returns evenly spaced freeze steps, the last at the fraction ``span`` of the run.

    Args:
        layers: names of all layers except the head.
        total_steps: optimizer steps of the whole run.
        span: the fraction of the run within which layers freeze, more than 0. Above 1, some layers
            never freeze.
        seed: the seed of the order.

    Returns:
        The step at which each layer freezes, the earliest first.
    """
    order = random.Random(seed).sample(list(layers), len(layers))
    spacing = span * total_steps / max(1, len(order))
    return {name: math.floor((k + 1) * spacing) for k, name in enumerate(order)}


class RandomOrder:
    """Policy: freezes layers in random order, see `freeze_steps`.

    It is the control for a freezing criterion at the same compute.

    Args:
        total_steps: optimizer steps of the whole run.
        span: the fraction of the run within which layers freeze, more than 0.
        seed: the seed of the order.

    Raises:
        ValueError: ``span`` is not positive.
    """

    def __init__(self, total_steps: int, span: float, seed: int = 0) -> None:
        if span <= 0:
            raise ValueError(f"span={span} must be more than 0.")
        self.total_steps, self.span, self.seed = total_steps, span, seed
        self._freeze_steps: dict[str, int] = {}

    def is_due(self, step: int) -> bool:
        """Whether a layer freezes at this step; always true before the first call."""
        return not self._freeze_steps or step in self._freeze_steps.values()

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers to freeze. The first call must be given all layers."""
        if not self._freeze_steps:
            names = [layer.name for layer in active if not layer.is_head]
            self._freeze_steps = freeze_steps(names, self.total_steps, self.span, self.seed)
        return [layer for layer in active if self._freeze_steps.get(layer.name, math.inf) <= step]

    def state_dict(self) -> dict[str, Any]:
        """Returns the freeze steps."""
        return {"moments": dict(self._freeze_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the freeze steps of another run."""
        self._freeze_steps = dict(state["moments"])
