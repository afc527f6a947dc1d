"""A compute budget, whose spent fraction can drive the learning rate."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from smartfrz.cost.spending import extra_compute
from smartfrz.cost.step_costs import StepCosts
from smartfrz.graph import Inputs

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer


class ComputeBudget:
    """The fraction of a compute budget that a run has spent.

    Steps become cheaper as layers freeze, so the same compute pays for more steps, and the step at
    which the budget is spent is not known in advance. A learning rate annealed over a fixed number
    of steps would then still be high. Anneal it with the spent fraction instead:

        budget = ComputeBudget(freezer, steps=0.6 * total_steps)
        scheduler = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * budget.spent)))
        while not budget.is_spent:
            loss.backward()
            freezer.step()
            optimizer.step()
            budget.step()
            scheduler.step()

    Parameters that the traced forward pass does not use cost nothing, except those of experts; see
    `training_flops`.

    Without freezing, this is a run of ``steps`` steps, fully annealed at its end; see Li et al.,
    "Budgeted Training", ICLR 2020. Not in the paper, where runs keep their number of steps.

    Args:
        freezer: the freezer of the model; each layer that it freezes makes a step cheaper.
        steps: the budget, in steps with no layer frozen.
        example_inputs: inputs for the model, as in `find_layers`; by default those of the freezer,
            or guessed.

    Raises:
        ValueError: ``steps`` is not positive, or no example inputs were given or could be guessed.
    """

    def __init__(
        self, freezer: "Freezer", steps: float, example_inputs: Inputs | None = None
    ) -> None:
        if steps <= 0:
            raise ValueError(f"The budget must be a positive number of steps, not {steps}.")
        self.freezer, self.steps = freezer, steps
        if example_inputs is None:
            self._costs = freezer.costs
        else:
            self._costs = StepCosts(freezer.model, freezer.layers, example_inputs)
        self._counted: tuple[frozenset[str], bool] = (frozenset(), False)
        self._cost = 1.0
        self._done = 0.0
        self._extra = extra_compute(freezer.policy)
        self._events = 0
        self._count(freezer.frozen)

    @property
    def spent(self) -> float:
        """The spent fraction of the budget, in [0, 1]."""
        return min(1.0, self._done / self.steps)

    @property
    def is_spent(self) -> bool:
        """Whether stopping now is nearer to the budget than taking another step."""
        return self.steps - self._done < self._cost / 2

    def step(self) -> None:
        """Counts a step. Must be called after every step, after ``freezer.step``.

        The step at which a layer freezes has computed its gradient and counts in full.
        """
        frozen, _ = self._counted
        thawed = {
            name
            for step, what, name in self.freezer.events[self._events :]
            if what == "thaw" and step < self.freezer.steps
        }
        self._count(frozen - thawed)  # the step itself has shown whether there are input gradients
        before, self._extra = self._extra, extra_compute(self.freezer.policy)
        self._done += self._cost + (self._extra - before)
        self._count(self.freezer.frozen)

    def state_dict(self) -> dict[str, Any]:
        """Returns the spent compute and the cost of the next step."""
        return {"done": self._done, "cost": self._cost}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the spent compute. Call it after ``freezer.load_state_dict``."""
        self._done, self._extra = state["done"], extra_compute(self.freezer.policy)
        self._count(self.freezer.frozen)
        # Whether there are input gradients is unknown until the next step.
        self._cost = state.get("cost", self._cost)

    def _count(self, frozen: Iterable[str]) -> None:
        """Updates the cost of a step, in steps with no layer frozen."""
        self._events = len(self.freezer.events)
        key = frozenset(frozen), self.freezer.input_gradients_are_computed
        if key != self._counted:
            self._counted = key
            self._cost = self._costs(*key)
