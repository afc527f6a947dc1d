"""Freezes that wait for each other, where each costs a compilation."""

import math
from collections.abc import Sequence
from typing import Any

from smartfrz.layers import Layer
from smartfrz.policies.protocol import Policy


class Gathered:
    """Policy: another one, whose layers freeze together rather than one by one.

    ``torch.compile`` compiles anew after each freeze, which may take longer than a few frozen
    layers save, and a CUDA graph has to be captured again. So layers that are to freeze go on
    training until a part of all layers waits, or nothing else is left that could freeze. A training
    freezes at most ``1 / part`` times, rounded up; how often it did, ``freezer.frozen`` tells.

    Args:
        policy: decides which layers are to freeze; it is asked about a layer no more once it has
            chosen it.
        part: of all layers but the head, in (0, 1].

    Raises:
        ValueError: ``part`` is out of range.
    """

    def __init__(self, policy: Policy, part: float = 0.25) -> None:
        if not 0 < part <= 1:
            raise ValueError(f"part={part} of the layers wait: more than 0, at most 1.")
        self.policy = policy
        self.part = part
        self._count = 0
        self._waiting: list[str] = []

    def is_due(self, step: int) -> bool:
        """Whether the other policy may decide on this step."""
        is_due = getattr(self.policy, "is_due", None)
        return is_due is None or is_due(step)

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """All that wait, if they are enough."""
        self._count = self._count or sum(not layer.is_head for layer in active)
        others = [layer for layer in active if layer.name not in self._waiting]
        chosen = self.policy.layers_to_freeze(others, step)
        if self.is_due(step):
            self._waiting += [layer.name for layer in chosen if not layer.is_head]
        waiting = [layer for layer in active if layer.name in self._waiting]
        body = [layer for layer in active if not layer.is_head]
        if len(waiting) < min(math.ceil(self.part * self._count), len(body)):
            return []
        self._waiting = []
        return waiting

    def state_dict(self) -> dict[str, Any]:
        """Who waits, and the other policy's state."""
        state = getattr(self.policy, "state_dict", dict)
        return {"count": self._count, "waiting": list(self._waiting), "policy": state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._count, self._waiting = state["count"], list(state["waiting"])
        load = getattr(self.policy, "load_state_dict", None)
        if load is not None:
            load(state["policy"])
