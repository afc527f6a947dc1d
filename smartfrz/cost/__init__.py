"""Training FLOPs for a set of frozen layers, what a run has spent, and a compute budget.

Costs are counted from one traced forward pass, without training. Import the names in ``__all__``;
everything else is internal.
"""

from smartfrz.cost.budget import ComputeBudget
from smartfrz.cost.flops import forward_macs, training_flops
from smartfrz.cost.spending import compute_spent, extra_compute
from smartfrz.cost.step_costs import StepCosts

__all__ = [
    "ComputeBudget",
    "StepCosts",
    "compute_spent",
    "extra_compute",
    "forward_macs",
    "training_flops",
]
