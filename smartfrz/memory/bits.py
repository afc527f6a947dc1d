"""Bit masks of the positive elements of a tensor, one bit per element."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_GATHER = 0x0102040810204080
"""Multiplied by an integer of eight bytes, each 0 or 1: gathers the bits in the top byte."""

_SPREAD = 0x0101010101010101
"""Multiplied by a byte: makes eight copies of it."""

_SELECT = 0x8040201008040201 - (1 << 64)
"""Mask for eight copies of a byte: selects bit 0 of the first copy, bit 1 of the second, etc."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Bits:
    """A bit mask of where a tensor is positive and, optionally, below a bound.

    Args:
        tensor: a bool or floating-point tensor. NaN may count as positive or not.
        below: the bound.
    """

    def __init__(self, tensor: Tensor, below: float | None = None) -> None:
        if not _is_dense(tensor):
            tensor = tensor.contiguous()
        self.size, self.stride, self.dtype = tensor.shape, tensor.stride(), tensor.dtype
        flat = tensor.detach().as_strided((tensor.numel(),), (1,))
        # On a CPU, NumPy compares and packs several times as fast as PyTorch.
        pack = _packed_by_numpy if tensor.device.type == "cpu" else _packed
        self.bytes = pack(flat, below)

    def unpacked(self) -> Tensor:
        """Returns a tensor of the same shape, dtype and strides: 1 where a bit is set, else 0."""
        unpack = _unpacked_by_numpy if self.bytes.device.type == "cpu" else _unpacked
        flat = unpack(self.bytes)[: self.size.numel()]
        flat = flat.bool() if self.dtype == torch.bool else flat.to(self.dtype)
        return flat.as_strided(self.size, self.stride)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements are contiguous in memory, in default or channels-last order."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory_format = formats.get(tensor.ndim, torch.contiguous_format)
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=memory_format)


def _packed_by_numpy(flat: Tensor, below: float | None) -> Tensor:
    if flat.dtype == torch.bool:
        return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))
    # Positive floating-point numbers have the same order as their bits read as integers.
    integers = flat.view(_INTEGERS[flat.element_size()]).numpy()
    inside = integers > 0
    if below is not None:
        bound = torch.tensor([below], dtype=flat.dtype).view(_INTEGERS[flat.element_size()])
        inside &= integers < bound.item()
    return torch.from_numpy(np.packbits(inside, bitorder="little"))


def _unpacked_by_numpy(packed: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), bitorder="little"))


def _packed(flat: Tensor, below: float | None) -> Tensor:
    inside = flat > 0
    if below is not None:
        inside &= flat < below
    each = inside.view(torch.uint8)
    if gap := -len(each) % 8:
        each = F.pad(each, (0, gap))
    return (each.view(torch.int64) * _GATHER >> 56).to(torch.uint8)


def _unpacked(packed: Tensor) -> Tensor:
    spread = packed.long().mul_(_SPREAD).bitwise_and_(_SELECT)
    return spread.view(torch.uint8).clamp_(max=1)
