"""Reduction of activation memory in a partly frozen model.

The package also measures what training holds, and contains the folding of frozen batch norms, the
check for gradients lost under activation checkpointing, and the end of the backward pass above tied
embeddings. Import the names
in ``__all__``; everything else is internal.
"""

from smartfrz.memory.activations import ActivationWatch, activation_bytes
from smartfrz.memory.checkpointing import GradientWatch
from smartfrz.memory.folding import fold_batch_norms, unfold_batch_norms
from smartfrz.memory.held import gradient_bytes, optimizer_state_bytes
from smartfrz.memory.saving import restore_memory, save_memory
from smartfrz.memory.tied_embeddings import detach_tied_embeddings

__all__ = [
    "ActivationWatch",
    "GradientWatch",
    "activation_bytes",
    "detach_tied_embeddings",
    "fold_batch_norms",
    "gradient_bytes",
    "optimizer_state_bytes",
    "restore_memory",
    "save_memory",
    "unfold_batch_norms",
]
