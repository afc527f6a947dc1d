"""Compact substitutes for tensors that autograd saves for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from smartfrz.memory.bits import Bits


class ShapeOnly:
    """Substitute for a tensor of which the backward pass only reads the shape."""

    def __init__(self, tensor: Tensor) -> None:
        self.size, self.stride = tensor.shape, tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device

    def unpacked(self) -> Tensor:
        # Not an expanded scalar, which would be copied; the memory is never written or read.
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)


class DropoutNoise:
    """Substitute for the noise of dropout, 0 or ``1 / keep``; on a GPU for its bool mask."""

    def __init__(self, noise: Tensor, keep: float) -> None:
        self.bits, self.keep = Bits(noise), keep

    def unpacked(self) -> Tensor:
        mask = self.bits.unpacked()
        return mask if mask.dtype == torch.bool else mask.div_(self.keep)


class Sign:
    """Mask of where the gradient passes an activation, kept as the activation's output or as bits.

    Args:
        tensor: the output, as PyTorch would save it.
        below: the gradient passes where the output is positive and, optionally, below this bound.
    """

    def __init__(self, tensor: Tensor, below: float | None = None) -> None:
        self.tensor: Tensor | None = tensor
        self.below = below
        self.version = tensor._version
        self.bits: Bits | None = None

    def follow(self, output: Tensor) -> None:
        """Keeps the output until a module that does not save it calls `to_bits`."""
        # Detached, because a tensor in the graph would form a cycle; it shares the version counter.
        self.tensor = output.detach()
        self.version = output._version
        output._smartfrz_sign = self  # type: ignore[attr-defined]

    def to_bits(self) -> None:
        """Replaces the output by bits."""
        if self.tensor is not None:
            self.bits, self.tensor = Bits(self._unmodified(), self.below), None

    def to_output(self, output: Tensor) -> None:
        """Replaces bits by the output, unless it has been modified."""
        if self.tensor is None and output._version == self.version:
            self.tensor, self.bits = output.detach(), None

    def unpacked(self) -> Tensor:
        """Returns the output, or zeros and ones that pass the gradient at the same elements."""
        return self._unmodified() if self.bits is None else self.bits.unpacked()

    def _unmodified(self) -> Tensor:
        assert self.tensor is not None
        if self.tensor._version != self.version:
            raise RuntimeError(
                "The output of an activation, which is needed for its gradient, has been modified "
                "by an inplace operation. Use an operation that is not in place."
            )
        return self.tensor


def unpacked_tensor(kept: Any) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept.unpacked()
