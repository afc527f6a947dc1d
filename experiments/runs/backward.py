"""The forward and the backward pass of a step, on a GPU as one CUDA graph."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from experiments.data.batches import Batch
from smartfrz import CapturedBackward
from smartfrz.distributed import world_size
from smartfrz.graph import Inputs, call

if TYPE_CHECKING:
    from experiments.runs.setup import Run


def make_backward(run: "Run") -> Callable[[Batch], Tensor]:
    """Returns the function that adds the gradients of a batch and returns its loss, detached.

    The gradients are those of the loss scaled by the run's scaler.

    Args:
        run: the run, complete but for this function.
    """

    def loss(inputs: Inputs, labels: Tensor) -> Tensor:
        with run.autocast():
            return loss_of(call(run.model, inputs), labels)

    if is_captured(run):
        captured = CapturedBackward(run.freezer, loss, run.scaler)
        return lambda batch: captured(batch.inputs, batch.labels)

    def backward(batch: Batch) -> Tensor:
        with run.autocast():
            found = loss_of(run.forward(batch.inputs, batch.keys), batch.labels)
        run.scaler.scale(found).backward()
        return found.detach()

    return backward


def is_captured(run: "Run") -> bool:
    """Whether a run's passes are CUDA graphs.

    Compiled models have graphs of their own, DDP communicates in its backward pass, and a feature
    cache decides on the host what to compute.
    """
    return (
        run.device.type == "cuda"
        and not run.config.compile
        and not run.config.feature_cache
        and world_size() == 1
    )


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the cross-entropy.

    Args:
        logits: (B, C), or (B, K, C) for K positions.
        labels: classes, (B,) or (B, K), or class probabilities, (B, C).
    """
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())
