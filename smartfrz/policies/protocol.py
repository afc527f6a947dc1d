"""The protocol of freezing policies."""

from collections.abc import Collection, Sequence
from typing import Protocol

from smartfrz.layers import Layer


class Policy(Protocol):
    """Decides which layers to freeze.

    `layers_to_freeze` is called at every step. A policy may also define:

    - ``attach(freezer)``: called once, at the end of ``Freezer.__init__``, with all attributes of
      the freezer at hand: its layers, and what steps cost (``freezer.costs``).
    - ``layers_to_thaw(frozen: Sequence[Layer], step: int) -> Collection[Layer]``: selects layers to
      train again, from the next forward pass on. It is called before `layers_to_freeze`, which then
      finds these layers among the active ones, without gradients. A layer that both select is
      thawed, and stays active at least until the next step at which the policy is due.
    - ``is_due(step) -> bool``: whether the policy may freeze or thaw layers at a step. At other
      steps its selection has no effect, and ``layers_to_thaw`` is not called. Distributed processes
      communicate only at the steps that are due, or at every step if ``is_due`` is missing.
    - ``extra_compute: float``: what it has spent so far on forward passes of its own, in all
      processes, in optimizer steps with no layer frozen. ``Freezer.compute_spent`` contains it.
    - ``state_dict()`` and ``load_state_dict(state)``: its state, if it has any. ``load_state_dict``
      is called after ``attach``.

    With several processes, the selections of rank 0 hold.
    """

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> Collection[Layer]:
        """Selects the layers to freeze at a step.

        A layer is not updated from this step on: its gradient has just been computed. One that is
        selected at step 0 never moves.

        Args:
            active: the layers that still train, the head included, in execution order.
            step: the index of the optimizer step about to be taken, from 0.

        Returns:
            The layers to freeze.
        """
