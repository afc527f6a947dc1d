"""Rows of features by sample, in memory or on disk, up to a number of bytes."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class FeatureStore:
    """Keeps one row per sample until the budget is spent.

    Args:
        row: an example of what is kept: its shape, dtype and device.
        budget_bytes: how much is kept at most.
        folder: where on disk, memory-mapped, it is kept; None for the memory of the row's device.
            The file has no name, so that nothing is left behind, whatever ends the process.

    Attributes:
        capacity: how many rows fit.
    """

    def __init__(self, row: Tensor, budget_bytes: int, folder: Path | None = None) -> None:
        self.capacity = budget_bytes // (row.numel() * row.element_size())
        shape = (self.capacity, *row.shape)
        if folder is None or not self.capacity:
            # The operating system gives memory to pages only once something is written there.
            self._rows = torch.empty(shape, dtype=row.dtype, device=row.device)
        else:
            self._rows = _on_disk(folder, shape, row.dtype)
        self._device = row.device
        self._place: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are kept."""
        row = self._rows[:1]
        return len(self._place) * row.numel() * row.element_size()

    def __len__(self) -> int:
        return len(self._place)

    def has(self, keys: Sequence[int]) -> list[bool]:
        """Whether each sample's row is kept."""
        return [key in self._place for key in keys]

    def put(self, keys: Sequence[int], rows: Tensor) -> None:
        """Keeps rows, (B, ...), as many as still fit."""
        new = [i for i, key in enumerate(keys) if key not in self._place]
        new = new[: self.capacity - len(self._place)]
        places = range(len(self._place), len(self._place) + len(new))
        if new:
            self._rows[places.start : places.stop] = rows[new].to(self._rows.device)
        self._place.update(zip((keys[i] for i in new), places, strict=True))

    def get(self, keys: Sequence[int]) -> Tensor:
        """The rows of samples that are kept, (B, ...): a copy."""
        places = torch.tensor([self._place[key] for key in keys], device=self._rows.device)
        return self._rows.index_select(0, places).to(self._device)


def _on_disk(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    size = torch.Size(shape).numel()
    rows = torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    os.unlink(name)
    return rows
