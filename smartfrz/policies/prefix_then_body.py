"""A prefix from the start and the rest of the body later."""

import math
from collections.abc import Mapping

from smartfrz.policies.pacing import even_pace
from smartfrz.policies.scheduled import Scheduled


class PrefixThenBody(Scheduled):
    """Policy: freezes the front at step 0, and all other layers but the heads later.

    The front is the longest prefix with which a step costs at least ``prefix`` (or ``compute``, if
    that is more). The others freeze at the step that makes the compute exact; to this end, some
    layers at the back may freeze one step after the others. With a ``spread``, they freeze from
    front to back, at an even pace over this fraction of the run.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        prefix: the cost of a step with the front frozen, as a fraction of a step of full training.
        compute: the fraction of full training's compute that the run spends.
        spread: the fraction of the run over which the layers behind the front freeze.

    Raises:
        ValueError: ``prefix`` or ``spread`` is not between 0 and 1; see `Scheduled` for others.
    """

    def __init__(
        self,
        total_steps: int,
        prefix: float = 0.75,
        compute: float = 0.58,
        spread: float = 0.0,
    ) -> None:
        super().__init__(total_steps, compute)
        if not 0 <= prefix <= 1:
            raise ValueError(f"prefix={prefix} must be between 0 and 1: it is the cost of a step.")
        if not 0 <= spread <= 1:
            raise ValueError(f"spread={spread} must be between 0 and 1: it is a part of the run.")
        self.prefix, self.spread = prefix, spread

    def schedule(self, position: float) -> dict[str, int]:
        """Returns step 0 for the front, and later steps for the others."""
        last = max(1, len(self._body) - self._front - 1)

        def step(index: int) -> int:
            place = (index - self._front) / last
            return math.floor(even_pace(position, self.spread, place) * self.total_steps)

        return {name: 0 if i < self._front else step(i) for i, name in enumerate(self._body)}

    def _planned(self, past: Mapping[str, int]) -> dict[str, int]:
        limit = max(self.prefix, self.compute)
        lengths = range(1, len(self._body) + 1)
        self._front = sum(self._costs(self._body[:length]) >= limit for length in lengths)
        return super()._planned(past)
