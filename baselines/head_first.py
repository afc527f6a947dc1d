"""The head first, then all layers: linear probing, then fine-tuning (LP-FT), a control.

Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
ICLR 2022 (arXiv:2202.10054).
"""

import math

from baselines.unfreezing import Unfreezing


class HeadFirst(Unfreezing):
    """Policy: trains the head alone at first, and all layers from the step that fits a compute.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        compute: the fraction of full training's compute that the run spends.

    Raises:
        ValueError: see `Scheduled`.
    """

    def __init__(self, total_steps: int, compute: float = 0.75) -> None:
        super().__init__(total_steps, compute)

    def schedule(self, position: float) -> dict[str, int]:
        """Returns one step for all layers."""
        return dict.fromkeys(self._body, math.floor((1 - position) * self.total_steps))
