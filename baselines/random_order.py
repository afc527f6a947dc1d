"""A control: layers freeze in random order, one after the other."""

import math
import random
from collections.abc import Sequence
from typing import Any

from smartfrz.layers import Layer


def freeze_steps(layers: Sequence[str], total_steps: int, span: float, seed: int) -> dict[str, int]:
    """When each layer freezes: evenly spaced, the last after ``span`` of the training.

    Args:
        layers: names of all layers but the head.
        total_steps: optimizer steps of the whole run.
        span: the part of them in which layers freeze, more than 0; past 1 some never do.
        seed: of the order.

    Returns:
        The step at which each layer freezes, the earliest first.
    """
    order = random.Random(seed).sample(list(layers), len(layers))
    spacing = span * total_steps / len(order)
    return {name: math.floor((k + 1) * spacing) for k, name in enumerate(order)}


class RandomOrder:
    """Policy: freezes layers in random order, see `freeze_steps`.

    What a criterion is worth shows beside it, at the same compute.

    Args:
        total_steps, span, seed: of `freeze_steps`.

    Raises:
        ValueError: ``span`` is not positive.
    """

    def __init__(self, total_steps: int, span: float, seed: int = 0) -> None:
        if span <= 0:
            raise ValueError(f"span={span} has to be more than 0.")
        self.total_steps, self.span, self.seed = total_steps, span, seed
        self._freeze_steps: dict[str, int] = {}

    def is_due(self, step: int) -> bool:
        """Whether a layer freezes at this step; before the first call, one may."""
        return not self._freeze_steps or step in self._freeze_steps.values()

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """The layers whose moment has come; at the first call all layers have to be there."""
        if not self._freeze_steps:
            names = [layer.name for layer in active if not layer.is_head]
            self._freeze_steps = freeze_steps(names, self.total_steps, self.span, self.seed)
        return [layer for layer in active if self._freeze_steps.get(layer.name, math.inf) <= step]

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {"moments": dict(self._freeze_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the moments of another run."""
        self._freeze_steps = dict(state["moments"])
