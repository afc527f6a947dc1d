"""A budget of compute: how much of it a training has spent, which its learning rate follows."""

from collections.abc import Iterable
from typing import Any

from smartfrz.cost.flops import training_flops
from smartfrz.distributed import unwrap
from smartfrz.freezer import Freezer
from smartfrz.graph import Inputs, trace, trace_with_guessed_inputs
from smartfrz.layers import Layer


class ComputeBudget:
    """How much of a budget of compute a training has spent.

    Steps become cheaper as layers freeze, so that the same compute pays for more of them, and
    nobody knows beforehand at which step it will be spent. A learning rate that is annealed over a
    number of steps would still be high then. So let it follow what is spent:

        budget = ComputeBudget(freezer, steps=0.6 * total_steps)
        scheduler = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * budget.spent)))
        while not budget.is_spent:
            loss.backward()
            freezer.step()
            optimizer.step()
            budget.step()
            scheduler.step()

    Without freezing this is a training of so many steps, annealed by its end; see Li et al.,
    "Budgeted Training", ICLR 2020. Not in the paper, where a run keeps its number of steps.

    Args:
        freezer: what freezes the model's layers, each of which makes a step cheaper.
        steps: the budget, in steps of training with nothing frozen.
        example_inputs: as for `find_layers`, which guesses them as well.

    Raises:
        ValueError: ``steps`` is not positive, or no example inputs were given or could be guessed.
    """

    def __init__(
        self, freezer: Freezer, steps: float, example_inputs: Inputs | None = None
    ) -> None:
        if steps <= 0:
            raise ValueError(f"A budget of {steps} steps pays for no training.")
        self.freezer, self.steps = freezer, steps
        model = unwrap(freezer.model)
        if example_inputs is None:
            self._calls = trace_with_guessed_inputs(model)
        else:
            self._calls = trace(model, example_inputs)
        in_layers = {param for layer in freezer.layers for param in layer.params}
        self._rest = [p for p in model.parameters() if p.requires_grad and p not in in_layers]
        self._full = self._flops(freezer.layers)
        self._frozen = 0
        self._cost = 1.0
        self._done = 0.0
        self._count()

    @property
    def spent(self) -> float:
        """The part of the budget that is spent, from 0 to 1."""
        return min(1.0, self._done / self.steps)

    @property
    def is_spent(self) -> bool:
        """Whether another step would be further from the budget than none."""
        return self.steps - self._done < self._cost / 2

    def step(self) -> None:
        """Counts a step; to be called after each, when ``freezer.step`` has frozen what it will.

        The step in which a layer freezes has computed its gradient, and is paid in full.
        """
        self._done += self._cost
        self._count()

    def state_dict(self) -> dict[str, Any]:
        """What is spent."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what was spent; after the freezer's own state was loaded."""
        self._done = state["done"]
        self._count()

    def _count(self) -> None:
        """What a step costs now, in steps with nothing frozen."""
        frozen = self.freezer.frozen
        if len(frozen) != self._frozen:
            self._frozen = len(frozen)
            active = [layer for layer in self.freezer.layers if layer.name not in frozen]
            self._cost = self._flops(active) / self._full

    def _flops(self, active: Iterable[Layer]) -> int:
        trains = [*self._rest, *(param for layer in active for param in layer.params)]
        return training_flops(self._calls, trains)
