"""The base of policies with a schedule that spends a given compute."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smartfrz.layers import Layer
from smartfrz.policies.pacing import check_compute, meet_compute, schedule_compute

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer


class Scheduled(ABC):
    """Policy: freezes each layer at a step that is fixed when it is attached to a freezer.

    Through `Gathered`, layers freeze later than planned, and the run spends more.

    Args:
        total_steps: optimizer steps of the whole run. If a run resumes with another number, the
            steps that lie ahead are planned anew, with what is already frozen.
        compute: the fraction of full training's compute that the run spends.

    Raises:
        ValueError: an argument is out of range or, at the attachment, the compute is less than the
            run spends with all layers but the heads frozen from step 0.
    """

    def __init__(self, total_steps: int, compute: float = 0.75) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1.")
        check_compute(compute)
        self.total_steps, self.compute = total_steps, compute
        self._next_step = 0

    @abstractmethod
    def schedule(self, position: float) -> dict[str, int]:
        """Returns the step of each layer of the body, from front to back.

        Args:
            position: from 0, with which the run spends least, to 1. The compute never falls.
        """

    def _compute_of(self, steps: Mapping[str, int]) -> float:
        """Returns the compute of a schedule, as a fraction of full training's."""
        return schedule_compute(steps, self.total_steps, self._costs)

    def attach(self, freezer: "Freezer") -> None:
        """Plans the run for the freezer's layers."""
        self._body = [layer.name for layer in freezer.layers if not layer.is_head]
        self._costs, self._next_step = freezer.costs, 0
        self._steps = self._planned({})

    def is_due(self, step: int) -> bool:
        """Whether layers freeze at this step."""
        return step in self._steps.values()

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose step is reached."""
        self._next_step = step + 1
        return [layer for layer in active if self._steps.get(layer.name, math.inf) <= step]

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule and how far it has been carried out."""
        return {
            "steps": dict(self._steps),
            "next_step": self._next_step,
            "total_steps": self.total_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a schedule; plans the rest of it anew if the length of the run has changed."""
        self._steps, self._next_step = dict(state["steps"]), state["next_step"]
        if state["total_steps"] != self.total_steps:
            past = {name: step for name, step in self._steps.items() if step < self._next_step}
            self._steps = self._planned(past)

    def _planned(self, past: Mapping[str, int]) -> dict[str, int]:
        """Returns the steps of a run of which some lie in the past, and no other does."""

        def schedule(position: float) -> dict[str, int]:
            steps = self.schedule(position).items()
            return {name: past.get(name, max(step, self._next_step)) for name, step in steps}

        steps = meet_compute(self.compute, schedule, self._compute_of)
        return {name: step for name, step in steps.items() if step < self.total_steps}
