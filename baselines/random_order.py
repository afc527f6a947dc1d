"""Random order, a control that freezes layers one after the other without a criterion."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from smartfrz import Freezer
from smartfrz.layers import Layer
from smartfrz.policies import check_compute, meet_compute, schedule_compute


def freeze_steps(layers: Sequence[str], total_steps: int, span: float, seed: int) -> dict[str, int]:
    """Returns evenly spaced freeze steps, the last at the fraction ``span`` of the run.

    Args:
        layers: names of all layers except the head.
        total_steps: optimizer steps of the whole run.
        span: the fraction of the run within which layers freeze, more than 0. Above 1, some layers
            never freeze.
        seed: the seed of the order.

    Returns:
        The step at which each layer freezes, the earliest first.
    """
    order = random.Random(seed).sample(list(layers), len(layers))
    spacing = span * total_steps / max(1, len(order))
    return {name: math.floor((k + 1) * spacing) for k, name in enumerate(order)}


class RandomOrder:
    """Policy: freezes layers in random order, see `freeze_steps`.

    It is the control for a freezing criterion at the same compute.

    Args:
        total_steps: optimizer steps of the whole run.
        span: the fraction of the run within which layers freeze, more than 0.
        seed: the seed of the order.
        compute: in place of ``span``, the fraction of full training's compute that the run spends.
            The span that fits is found when the policy is attached to a freezer.

    Raises:
        ValueError: ``span`` or ``compute`` is out of range, or both or neither of them are given.
            At the attachment: the compute is less than the run spends with all layers but the
            heads frozen from step 0.
    """

    def __init__(
        self,
        total_steps: int,
        span: float | None = None,
        seed: int = 0,
        compute: float | None = None,
    ) -> None:
        if (span is None) == (compute is None):
            raise ValueError("RandomOrder needs either span or compute.")
        if span is not None and span <= 0:
            raise ValueError(f"span={span} must be more than 0.")
        if compute is not None:
            check_compute(compute)
        self.total_steps, self.span, self.seed, self.compute = total_steps, span, seed, compute
        self._freeze_steps: dict[str, int] = {}

    def attach(self, freezer: Freezer) -> None:
        """Finds the freeze steps that spend the compute, if one is given."""
        if self.compute is None:
            return
        body = [layer.name for layer in freezer.layers if not layer.is_head]

        def schedule(position: float) -> dict[str, int]:
            # With a span of one run for each layer, none freezes before the end.
            return freeze_steps(body, self.total_steps, position * (len(body) + 1), self.seed)

        def compute_of(steps: Mapping[str, int]) -> float:
            return schedule_compute(steps, self.total_steps, freezer.costs)

        self._freeze_steps = meet_compute(self.compute, schedule, compute_of)

    def is_due(self, step: int) -> bool:
        """Whether a layer freezes at this step; always true before the first call."""
        return not self._freeze_steps or step in self._freeze_steps.values()

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers to freeze. The first call must be given all layers."""
        if not self._freeze_steps and self.span is not None:
            names = [layer.name for layer in active if not layer.is_head]
            self._freeze_steps = freeze_steps(names, self.total_steps, self.span, self.seed)
        return [layer for layer in active if self._freeze_steps.get(layer.name, math.inf) <= step]

    def state_dict(self) -> dict[str, Any]:
        """Returns the freeze steps."""
        return {"moments": dict(self._freeze_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the freeze steps of another run."""
        self._freeze_steps = dict(state["moments"])
