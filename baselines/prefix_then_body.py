"""A prefix from the start and the rest of the body at a later step, a control."""

import math
from collections.abc import Mapping

from baselines.scheduled import Scheduled


class PrefixThenBody(Scheduled):
    """Policy: freezes the front at step 0, and all other layers but the heads at a later step.

    The front is the longest prefix with which a step costs at least ``prefix`` (or ``compute``, if
    that is more). The later step is the one that makes the compute exact; to this end, some layers
    at the back may freeze one step after the others.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        prefix: the cost of a step with the front frozen, as a fraction of a step of full training.
        compute: the fraction of full training's compute that the run spends.

    Raises:
        ValueError: see `Scheduled`.
    """

    def __init__(self, total_steps: int, prefix: float = 0.75, compute: float = 0.58) -> None:
        super().__init__(total_steps, compute)
        if not 0 <= prefix <= 1:
            raise ValueError(f"prefix={prefix} must be between 0 and 1: it is the cost of a step.")
        self.prefix = prefix

    def schedule(self, position: float) -> dict[str, int]:
        """Returns step 0 for the front, and one later step for the others."""
        moment = math.floor(position * self.total_steps)
        return {name: 0 if i < self._front else moment for i, name in enumerate(self._body)}

    def _planned(self, past: Mapping[str, int]) -> dict[str, int]:
        limit = max(self.prefix, self.compute)
        lengths = range(1, len(self._body) + 1)
        self._front = sum(self._costs(self._body[:length]) >= limit for length in lengths)
        return super()._planned(past)
