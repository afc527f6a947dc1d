"""Training FLOPs for a set of frozen layers, and a compute budget.

Costs are counted from one traced forward pass, without training. Import the names in ``__all__``;
everything else is internal.
"""

from smartfrz.cost.budget import ComputeBudget
from smartfrz.cost.flops import forward_macs, training_flops

__all__ = ["ComputeBudget", "forward_macs", "training_flops"]
