"""A policy wrapper that freezes layers in groups, to save recompilations."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from smartfrz.cost import extra_compute
from smartfrz.freezer import Freezer
from smartfrz.layers import Layer
from smartfrz.policies.protocol import Policy


class Gathered:
    """Policy: wraps another policy and freezes the layers that it selects in groups.

    ``torch.compile`` recompiles after each freeze, which can take longer than a few frozen layers
    save, and a CUDA graph must be captured again. Selected layers therefore keep training until a
    fraction of all layers is waiting, or until no other layer is left to freeze. A run freezes at
    most ``1 / part`` times, rounded up; the distinct steps in ``freezer.frozen`` are the actual
    freezes. The wrapped policy still sees the layers that wait, since they move and so change the
    input of the layers behind them. It cannot take its selection back.

    Layers selected at step 0 freeze there, before any group is complete: they are to keep their
    initial weights. Thaws are not gathered either. A policy that spends a given compute spends more
    of it if its layers wait.

    Args:
        policy: selects the layers.
        part: the fraction of all layers except the head that freezes at once, in (0, 1].

    Raises:
        ValueError: ``part`` is out of range.
    """

    def __init__(self, policy: Policy, part: float = 0.25) -> None:
        if not 0 < part <= 1:
            raise ValueError(
                f"part={part} must be more than 0 and at most 1: it is the fraction of layers that "
                "freezes at once."
            )
        self.policy = policy
        self.part = part
        self._count = 0
        self._waiting: list[str] = []
        self._thawing: set[str] = set()

    def attach(self, freezer: Freezer) -> None:
        """Attaches the wrapped policy to the freezer."""
        attach = getattr(self.policy, "attach", None)
        if attach is not None:
            attach(freezer)

    @property
    def extra_compute(self) -> float:
        """What the wrapped policy has spent on forward passes of its own."""
        return extra_compute(self.policy)

    def is_due(self, step: int) -> bool:
        """Whether the wrapped policy may freeze layers at this step."""
        is_due = getattr(self.policy, "is_due", None)
        return is_due is None or is_due(step)

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> Collection[Layer]:
        """Returns the layers that the wrapped policy thaws."""
        thaw = getattr(self.policy, "layers_to_thaw", None)
        thawing = [] if thaw is None else thaw(frozen, step)
        self._thawing = {layer.name for layer in thawing}
        return thawing

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns all waiting layers if there are enough of them, otherwise none."""
        self._count = self._count or sum(not layer.is_head for layer in active)
        passed_over = {*self._waiting, *self._thawing}
        chosen = self.policy.layers_to_freeze(active, step)
        if self.is_due(step):
            new = [layer for layer in chosen if not layer.is_head and layer.name not in passed_over]
            if step == 0:
                return new
            self._waiting += [layer.name for layer in new]
        waiting = [layer for layer in active if layer.name in self._waiting]
        body = [layer for layer in active if not layer.is_head]
        if len(waiting) < min(math.ceil(self.part * self._count), len(body)):
            return []
        self._waiting = []
        return waiting

    def state_dict(self) -> dict[str, Any]:
        """Returns the waiting layers and the wrapped policy's state."""
        state = getattr(self.policy, "state_dict", dict)
        return {"count": self._count, "waiting": list(self._waiting), "policy": state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._count, self._waiting = state["count"], list(state["waiting"])
        load = getattr(self.policy, "load_state_dict", None)
        if load is not None:
            load(state["policy"])
