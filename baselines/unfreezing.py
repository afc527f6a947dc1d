"""Gradual unfreezing from the head, a control for fine-tuning.

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018
(arXiv:1801.06146).
"""

import math
from collections.abc import Mapping, Sequence

from smartfrz import Layer
from smartfrz.cost import compute_spent
from smartfrz.policies import Scheduled


class Unfreezing(Scheduled):
    """Policy: trains the head alone at first, and thaws the other layers from back to front.

    The pace is even: one that would thaw all layers within the fraction ``over`` of the run. It
    stops at the prefix that makes the compute exact, which stays frozen; the last layer thaws as
    late as that takes. If all layers thawed at this pace are too little compute, the pace is
    faster. In the paper, a group of layers thaws in each epoch, and none stays frozen.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        compute: the fraction of full training's compute that the run spends.
        over: the fraction of the run within which all layers would thaw, in [0, 1].

    Raises:
        ValueError: see `Scheduled`.
    """

    def __init__(self, total_steps: int, compute: float = 0.75, over: float = 0.25) -> None:
        super().__init__(total_steps, compute)
        if not 0 <= over <= 1:
            raise ValueError(f"over={over} must be between 0 and 1: it is a fraction of the run.")
        self.over = over

    def schedule(self, position: float) -> dict[str, int]:
        """Returns the step at which each layer thaws; it trains from the next step on."""
        count = math.floor(min(1.0, 2 * position) * len(self._body))
        over = self.over * min(1.0, 2 - 2 * position) * self.total_steps
        steps = {}
        for left, name in enumerate(self._body):
            place = len(self._body) - left  # from the back
            thaws = place <= count
            steps[name] = math.floor(place / len(self._body) * over) if thaws else self.total_steps
        return steps

    def is_due(self, step: int) -> bool:
        """Whether layers freeze or thaw at this step."""
        return step == 0 or super().is_due(step)

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose step is reached."""
        return [layer for layer in frozen if not self._is_frozen(layer.name, step)]

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that do not train before their step, the heads excepted."""
        self._next_step = step + 1
        return [each for each in active if not each.is_head and self._is_frozen(each.name, step)]

    def _is_frozen(self, name: str, step: int) -> bool:
        """Whether a layer is frozen after a step."""
        return step < self._steps.get(name, math.inf)

    def _compute_of(self, steps: Mapping[str, int]) -> float:
        late = sorted((step + 1, "thaw", name) for name, step in steps.items() if step > 0)
        events = [(0, "freeze", name) for _, _, name in late] + late
        return compute_spent(events, self.total_steps, self._costs) / self.total_steps
