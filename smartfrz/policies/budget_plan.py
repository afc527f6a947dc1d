"""A plan by which a run spends a given compute: how many layers train when."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smartfrz.initialisation import is_pretrained
from smartfrz.layers import Layer
from smartfrz.policies.pacing import check_compute, even_pace, meet_compute

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer

PROTECTED = 0.75
"""The cost of a step while only the front of a pretrained network is frozen, at most."""

HEAD_FIRST = 0.1
"""The part of a run in which the head of a pretrained network trains alone, at most."""

SPREAD = 0.4
"""The part of a run over which the body is released, if all of it trained from the first step."""


class BudgetPlan:
    """Policy: spends a given compute by a plan of three phases, without a predictor.

    1. The head of a pretrained network trains alone, since the gradients through an untrained head
       would distort the pretrained features (Kumar et al., ICLR 2022, arXiv:2202.10054).
    2. All layers train but the front of a pretrained network, which has never moved.
    3. The others are released, from front to back and at an even pace, so that the head alone uses
       up the rest of the budget.

    In a network that is not pretrained, see `is_pretrained`, the second phase begins at step 0, and
    no front is protected. ``SmartFRZ`` with a budget follows this plan, and freezes layers earlier
    if its predictor selects them: as much longer do the others train.

    The phases' lengths are constants, chosen on validation examples; see the page "What we tried".
    Through `Gathered`, layers freeze later than planned, and the run spends more.

    Args:
        budget: the fraction of full training's compute that the run spends, in (0, 1].
        total_steps: optimizer steps of the whole run. It may be changed later: the plan of what
            lies ahead follows it.

    Raises:
        ValueError: an argument is out of range or, when the freezer is made, the budget is less
            than the run spends with all layers but the heads frozen at step 0.
    """

    def __init__(self, budget: float, total_steps: int) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1.")
        check_compute(budget, "budget")
        self.budget, self.total_steps = budget, total_steps
        self._release: dict[str, int] = {}
        self._planned_steps = 0

    def attach(self, freezer: "Freezer", extra_cost: float = 0.0) -> None:
        """Plans the first two phases for the freezer's layers.

        Args:
            freezer: the freezer. If its model is sharded, all processes must call this method.
            extra_cost: what a step costs in addition while a layer of the body trains.
        """
        self._freezer, self._extra_cost = freezer, extra_cost
        self._body = [layer.name for layer in freezer.layers if not layer.is_head]
        self._check_reach()
        self._thaw_step, self._front = 0, list[str]()
        if is_pretrained(freezer.layers):
            self._thaw_step = self._head_steps()
            self._front = self._longest_front()
            if not self._is_worth_thawing():
                self._thaw_step = self.total_steps

    def is_due(self, step: int) -> bool:
        """Whether layers freeze or thaw at this step."""
        return step in (0, self._thaw_step - 1) or step in self._release.values()

    def trains_head_alone(self, step: int) -> bool:
        """Whether a step is in the first phase."""
        return step < self._thaw_step

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
        """Returns all layers but the front, at the end of the first phase."""
        if step != self._thaw_step - 1 or self._thaw_step == self.total_steps:
            return []
        return [layer for layer in frozen if layer.name not in self._front]

    def layers_to_freeze(
        self, active: Sequence[Layer], step: int, converged: Collection[Layer] = ()
    ) -> list[Layer]:
        """Returns the layers that the plan freezes, and of others as many as it can afford.

        Args:
            active: the layers that still train, the head included, in execution order.
            step: the index of the optimizer step about to be taken.
            converged: layers that may freeze earlier than planned, as far as no budget is left
                unspent.
        """
        body = [layer for layer in active if not layer.is_head]
        if self.trains_head_alone(step):
            return body
        names = [layer.name for layer in body]
        if step == 0:
            names = [name for name in names if name not in self._front]
        planned = {name for name, at in self._release.items() if at >= step}
        if planned != set(names) or self._planned_steps != self.total_steps:
            self._plan_release(names, step)
        chosen = {layer.name for layer in body if self._release.get(layer.name, 0) <= step}
        early = [layer.name for layer in body if layer in converged and layer.name not in chosen]
        if early:
            chosen.update(self._affordable(step, sorted(chosen), early))
        return [layer for layer in body if layer.name in chosen]

    def state_dict(self) -> dict[str, Any]:
        """Returns the plan."""
        return {
            "front": list(self._front),
            "thaw_step": self._thaw_step,
            "release": dict(self._release),
            "planned_steps": self._planned_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a plan returned by `state_dict`."""
        self._front, self._thaw_step = list(state["front"]), state["thaw_step"]
        self._release, self._planned_steps = dict(state["release"]), state["planned_steps"]

    def _costs(self, frozen: Collection[str]) -> float:
        extra = self._extra_cost if set(self._body).difference(frozen) else 0.0
        return self._freezer.costs(frozen) + extra

    def _check_reach(self) -> None:
        least = self._spent_on_head(self.total_steps) / self.total_steps
        if self.budget < least - 1e-9:
            raise ValueError(
                f"budget={self.budget:g} cannot be reached: with all layers but the heads frozen "
                f"from the first step on, the run still spends {math.ceil(1000 * least) / 1000} of "
                "full training's compute. Ask for at least as much."
            )

    def _spent_on_head(self, steps: int) -> float:
        """Returns what a first phase spends; at step 0, all gradients are computed."""
        return self._costs(()) + (steps - 1) * self._costs(self._body) if steps else 0.0

    def _head_steps(self) -> int:
        """Returns the length of the first phase, which leaves no more budget than can be spent."""
        saved = 1 - self._freezer.costs(self._body)
        part = min(HEAD_FIRST, (1 - self.budget) / saved) if saved > 0 else 0.0
        steps = math.floor(part * self.total_steps)
        return steps if steps > 1 else 0  # layers that freeze at a step can't thaw at it

    def _longest_front(self) -> list[str]:
        """Returns the longest front with which the second phase could spend the budget."""
        head_steps, costs = self._thaw_step, self._freezer.costs
        spent = 1 + (head_steps - 1) * costs(self._body) if head_steps else 0.0
        left = (self.budget * self.total_steps - spent) / max(1, self.total_steps - head_steps)
        limit = max(PROTECTED, left)
        length = 0
        while length < len(self._body) and costs(self._body[: length + 1]) >= limit:
            length += 1
        return self._body[:length]

    def _is_worth_thawing(self) -> bool:
        """Whether the budget lasts for at least a step of the second phase."""
        least, trains = self._costs(self._body), self._costs(self._front)
        left = self.budget * self.total_steps - self._spent_on_head(self._thaw_step)
        return left > least * (self.total_steps - self._thaw_step) + trains - least

    def _plan_release(self, names: Sequence[str], step: int) -> None:
        """Plans the third phase for the layers of the body that train at a step."""
        self._planned_steps = self.total_steps
        steps = self.total_steps - step
        frozen = [name for name in self._body if name not in names]
        costs = [self._costs([*frozen, *names[:count]]) for count in range(len(names) + 1)]

        def compute_of(release: Mapping[str, int]) -> float:
            ends = [*(min(at + 1, steps) for at in release.values()), steps]
            starts = [0, *ends]
            return sum((e - s) * c for s, e, c in zip(starts, ends, costs, strict=False)) / steps

        def release(position: float) -> dict[str, int]:
            return {name: max(0, self._release_step(name, position) - step) for name in names}

        # What freezes at this step, such as the front at step 0, does not make it cheaper.
        spent = self._freezer.compute_spent + self._costs([*self._freezer.frozen]) - costs[0]
        left = (self.budget * self.total_steps - spent) / max(1, steps)
        least = compute_of(dict.fromkeys(names, 0)) if steps > 0 else math.inf
        planned = meet_compute(left, release, compute_of) if left >= least else release(0.0)
        self._release = {name: step + at for name, at in planned.items()}

    def _release_step(self, name: str, position: float) -> int:
        """Returns the step at which a layer is released, which grows with a position in [0, 1]."""
        first = len(self._front)
        place = max(0, self._body.index(name) - first) / max(1, len(self._body) - first - 1)
        return math.floor(even_pace(position, SPREAD, place) * self.total_steps)

    def _affordable(self, step: int, due: Sequence[str], early: Sequence[str]) -> list[str]:
        """Returns the first layers that can freeze early without leaving budget unspent.

        The step at which they freeze itself costs as much as before.
        """
        frozen, spent = [*self._freezer.frozen], self._freezer.compute_spent
        left = self.budget * self.total_steps - spent - self._costs(frozen)
        after = self.total_steps - step - 1
        count = 0
        while count < len(early):
            if after * self._costs([*frozen, *due, *early[: count + 1]]) < left:
                break
            count += 1
        return list(early[:count])
