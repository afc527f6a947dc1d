"""Reduction of activation memory in a partly frozen model.

The package also contains the folding of frozen batch norms and the check for gradients lost under
activation checkpointing. Import the names in ``__all__``; everything else is internal.
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
