"""The protocol of freezing policies."""

from collections.abc import Collection, Sequence
from typing import Protocol

from smartfrz.layers import Layer


class Policy(Protocol):
    """Decides which layers to freeze.

    A policy may also define ``is_due(step) -> bool``, which returns whether it may freeze layers at
    a step. Distributed processes communicate only at these steps, or at every step if ``is_due`` is
    missing. A policy with state defines ``state_dict`` and ``load_state_dict``.
    """

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> Collection[Layer]:
        """Selects the layers to freeze at a step.

        Args:
            active: the layers that still train, the head included, in execution order.
            step: the index of the optimizer step about to be taken, from 0.

        Returns:
            The layers to freeze.
        """
