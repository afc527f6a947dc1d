"""Compact substitutes for the indices that max pooling saves for the backward pass."""

from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.sharding import class_of

_DIMENSIONS: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}


class Windows:
    """Places that max pooling takes maxima of.

    Args:
        module: a max pooling module.
        x: its input, whose last dimensions are pooled, with or without a batch.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.sizes = x.shape[-_DIMENSIONS[class_of(module)] :]
        self.module, self.device = module, x.device

    def starts(self, outputs: torch.Size) -> Tensor:
        """Returns the index of each window's first element, negative in the padding.

        Args:
            outputs: number of windows in each pooled dimension.
        """
        starts = torch.zeros((), dtype=torch.int64, device=self.device)
        strides, paddings = self._of_all("stride"), self._of_all("padding")
        for size, count, stride, padding in zip(
            self.sizes, outputs, strides, paddings, strict=True
        ):
            first = torch.arange(count, device=self.device) * stride - padding
            starts = starts[..., None] * size + first
        return starts

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integer type for indices relative to a window's first element."""
        last = 0
        kernels, dilations = self._of_all("kernel_size"), self._of_all("dilation")
        for size, kernel, dilation in zip(self.sizes, kernels, dilations, strict=True):
            last = last * size + (kernel - 1) * dilation
        if last <= torch.iinfo(torch.uint8).max:
            return torch.uint8
        return torch.int16 if last <= torch.iinfo(torch.int16).max else torch.int32

    def _of_all(self, name: str) -> tuple[int, ...]:
        value = getattr(self.module, name)
        return value if isinstance(value, tuple) else (value,) * len(self.sizes)


class Indices:
    """Substitute for int64 indices of maxima.

    Args:
        indices: places in the pooled dimensions of the input.
        windows: the windows of the maxima.
    """

    def __init__(self, indices: Tensor, windows: Windows) -> None:
        self.windows = windows
        self.relative = (indices - self._starts(indices)).to(windows.dtype)

    def unpacked(self) -> Tensor:
        """Returns the indices."""
        return self.relative + self._starts(self.relative)

    def _starts(self, indices: Tensor) -> Tensor:
        return self.windows.starts(indices.shape[-len(self.windows.sizes) :])
