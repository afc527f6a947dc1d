"""Compact substitutes for tensors that autograd saves for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from smartfrz.memory.bits import Bits


class ShapeOnly:
    """In place of a tensor of which the backward pass reads the shape alone."""

    def __init__(self, tensor: Tensor) -> None:
        self.size, self.stride = tensor.shape, tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device

    def unpacked(self) -> Tensor:
        # With memory of its own, though never touched: an expanded scalar would be copied.
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)


class Indices:
    """Indices that fit into a smaller type."""

    def __init__(self, indices: Tensor, dtype: torch.dtype) -> None:
        self.indices = indices.to(dtype)

    def unpacked(self) -> Tensor:
        return self.indices.long()


class DropoutNoise:
    """What dropout multiplies by: 0 or ``1 / keep``; on a GPU it keeps a mask."""

    def __init__(self, noise: Tensor, keep: float) -> None:
        self.bits, self.keep = Bits(noise), keep

    def unpacked(self) -> Tensor:
        mask = self.bits.unpacked()
        return mask if mask.dtype == torch.bool else mask.div_(self.keep)


class Sign:
    """Where the gradient passes an activation: kept as the activation's output, or as bits.

    Args:
        tensor: the output, as PyTorch would keep it.
        below: the gradient passes where the output is positive and, if given, below this.
    """

    def __init__(self, tensor: Tensor, below: float | None = None) -> None:
        self.tensor: Tensor | None = tensor
        self.below = below
        self.version = tensor._version
        self.bits: Bits | None = None

    def follow(self, output: Tensor) -> None:
        """Waits to see who else keeps the output."""
        # Shares the version of the output, but has no part in the graph, which would be a cycle.
        self.tensor = output.detach()
        self.version = output._version
        output._smartfrz_sign = self  # type: ignore[attr-defined]

    def to_bits(self) -> None:
        """Lets go of the output."""
        if self.tensor is not None:
            self.bits, self.tensor = Bits(self._unmodified(), self.below), None

    def unpacked(self) -> Tensor:
        """The output, or zeros and ones that let the gradient pass in the same places."""
        return self._unmodified() if self.bits is None else self.bits.unpacked()

    def _unmodified(self) -> Tensor:
        assert self.tensor is not None
        if self.tensor._version != self.version:
            raise RuntimeError(
                "The output of an activation, which its gradient needs, has been modified by an "
                "inplace operation."
            )
        return self.tensor


def unpacked_tensor(kept: Any) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept.unpacked()
