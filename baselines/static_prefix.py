"""A static prefix, a control that freezes the front of the network before it has moved."""

import math
from collections.abc import Mapping

from smartfrz.policies import Scheduled


class StaticPrefix(Scheduled):
    """Policy: freezes the first layers at step 0, as far as a given compute.

    With ``total_steps``, the prefix is the longest that spends at least ``compute``, and the layer
    behind it freezes during the run, at the step that makes the compute exact. Otherwise it is the
    prefix with which the cost of a step is nearest to ``compute``.

    Args:
        compute: the fraction of full training's compute that the run spends.
        total_steps: optimizer steps of the whole run, if known; see `Scheduled`.

    Raises:
        ValueError: see `Scheduled`.
    """

    def __init__(self, compute: float = 0.75, total_steps: int | None = None) -> None:
        super().__init__(1 if total_steps is None else total_steps, compute)
        self._is_endless = total_steps is None

    def schedule(self, position: float) -> dict[str, int]:
        """Returns step 0 for a prefix, and a step that the run does not reach for all others."""
        count = math.floor((1 - position) * len(self._body))
        return {name: 0 if i < count else self.total_steps for i, name in enumerate(self._body)}

    def _compute_of(self, steps: Mapping[str, int]) -> float:
        if self._is_endless:
            return self._costs([name for name, step in steps.items() if step == 0])
        return super()._compute_of(steps)
