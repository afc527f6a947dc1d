"""Memory of a partly frozen model: keeping no activations that frozen layers do not need.

Folding of frozen batch norms and the check for lost gradients under activation checkpointing live
here, too. Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.memory.activations import activation_bytes
from smartfrz.memory.checkpointing import GradientWatch
from smartfrz.memory.folding import fold_batch_norms, unfold_batch_norms
from smartfrz.memory.saving import restore_memory, save_memory

__all__ = [
    "GradientWatch",
    "activation_bytes",
    "fold_batch_norms",
    "restore_memory",
    "save_memory",
    "unfold_batch_norms",
]
