"""The protocol that every freezing policy follows."""

from collections.abc import Collection, Sequence
from typing import Protocol

from smartfrz.layers import Layer


class Policy(Protocol):
    """Decides which layers to freeze.

    A policy may also have ``is_due(step) -> bool``, which says whether a decision can fall on a
    step (processes that train together talk only then; without it, at every step), and, where it
    has state, ``state_dict`` and ``load_state_dict``.
    """

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> Collection[Layer]:
        """Chooses among the layers that still train, the head included, in execution order."""
