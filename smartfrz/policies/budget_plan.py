"""How many layers freeze when, if a run is to spend a given compute."""

import math
from collections.abc import Callable, Collection, Sequence

from smartfrz.initialisation import is_pretrained
from smartfrz.layers import Layer
from smartfrz.policies.pacing import check_compute

PROTECTED = 0.75
"""The cost of a step while only the front of a pretrained network is frozen, at most."""


class BudgetPlan:
    """Plan with two ends for a run that spends a given compute.

    The front of a pretrained network is protected: it is frozen at step 0, before the high learning
    rates of the first steps change it. The rest of the body trains for as long as the budget lasts,
    and is released at the step from which on the head alone uses up what is left. Layers may freeze
    earlier, if something else selects them; as much longer do the others train.

    The plan has no state: it is computed from the frozen layers and the compute spent so far.

    Args:
        costs: the cost of a step with some layers frozen, such as ``Freezer.costs``.
        body: the names of all layers but the heads, from front to back.
        total_steps: optimizer steps of the whole run.
        budget: the fraction of full training's compute to spend.

    Raises:
        ValueError: the budget is out of range, or less than the run spends with all layers but the
            heads frozen at step 0.
    """

    def __init__(
        self,
        costs: Callable[[Collection[str]], float],
        body: Sequence[str],
        total_steps: int,
        budget: float,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1.")
        check_compute(budget, "budget")
        self.costs, self.body, self.total_steps, self.budget = costs, body, total_steps, budget
        least = (costs(()) + (total_steps - 1) * costs(body)) / total_steps
        if budget < least - 1e-9:
            raise ValueError(
                f"budget={budget:g} cannot be reached: with all layers but the heads frozen from "
                f"the first step on, the run still spends {math.ceil(1000 * least) / 1000} of full "
                "training's compute. Ask for at least as much."
            )

    def protected(self, layers: Sequence[Layer]) -> list[str]:
        """Returns the front to freeze at step 0: none if the weights are not pretrained.

        Args:
            layers: all layers of the model; if it is sharded, all processes must call this method.
        """
        limit = max(self.budget, PROTECTED)
        return self.front(limit) if limit < 1 and is_pretrained(layers) else []

    def front(self, step_cost: float) -> list[str]:
        """Returns the longest front with which a step costs at least ``step_cost``."""
        length = 0
        while length < len(self.body) and self.costs(self.body[: length + 1]) >= step_cost:
            length += 1
        return list(self.body[:length])

    def release_step(self, step: int, spent: float, frozen: Collection[str]) -> int:
        """Returns the step at which the rest of the body freezes, if nothing else does before.

        Args:
            step: the next step.
            spent: the compute of all steps before it, in steps with no layer frozen.
            frozen: the frozen layers.

        Returns:
            The step, at least ``step``; ``total_steps`` if the budget lasts until the end.
        """
        now, least = self.costs(frozen), self.costs(self.body)
        left = self.budget * self.total_steps - spent
        if now * (self.total_steps - step) <= left or now <= least:
            return self.total_steps
        more = (left - least * (self.total_steps - step)) / (now - least)
        # The step at which layers freeze still costs as much as those before it.
        return step + max(0, round(more) - 1)

    def affordable(
        self, step: int, spent: float, frozen: Collection[str], chosen: Sequence[str]
    ) -> list[str]:
        """Returns the first of the chosen layers that can freeze without leaving budget unspent.

        Args:
            step: the step at which they would freeze, which itself costs as much as before.
            spent: the compute of all steps before it, in steps with no layer frozen.
            frozen: the frozen layers.
            chosen: further layers, in the order in which they are to freeze.
        """
        left = self.budget * self.total_steps - spent - self.costs(frozen)
        after = self.total_steps - step - 1
        count = 0
        while count < len(chosen):
            if after * self.costs([*frozen, *chosen[: count + 1]]) < left:
                break
            count += 1
        return list(chosen[:count])
