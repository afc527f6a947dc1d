"""Freezing from front to back at an even pace, a control without a criterion.

Yuan et al., "Layer Freezing & Data Sieving: Missing Pieces of a Generic Framework for Sparse
Training", 2022 (arXiv:2209.11204), freeze layer by layer at a constant interval, and let the target
of training FLOPs decide when to start (SmartFRZ, Section 2).
"""

import math

from smartfrz.policies import Scheduled


class Paced(Scheduled):
    """Policy: freezes layers from front to back at an even pace, all but the heads.

    The pace starts at the moment that makes the compute exact, and ends with the run. If that is
    too much compute with a start at step 0, it ends earlier. The arguments are those of
    `Scheduled`.
    """

    def schedule(self, position: float) -> dict[str, int]:
        """Returns evenly spaced steps from front to back."""
        start = max(0.0, 2 * position - 1) * self.total_steps
        end = min(1.0, 2 * position) * self.total_steps
        spacing = (end - start) / max(1, len(self._body) - 1)
        return {name: math.floor(start + i * spacing) for i, name in enumerate(self._body)}
