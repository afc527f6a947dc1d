"""A store of feature rows by sample, in memory or on disk, with a limit in bytes."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class FeatureStore:
    """Stores one row per sample until the budget is spent.

    Args:
        row: an example row, which determines shape, dtype and device.
        budget_bytes: memory limit of all rows.
        folder: folder for a memory-mapped file; ``None`` for the memory of the row's device. The
            file is unlinked at once, so it disappears when the process ends, in whatever way.

    Attributes:
        capacity: the number of rows that fit.
    """

    def __init__(self, row: Tensor, budget_bytes: int, folder: Path | None = None) -> None:
        self.capacity = budget_bytes // (row.numel() * row.element_size())
        shape = (self.capacity, *row.shape)
        if folder is None or not self.capacity:
            # The operating system allocates pages only when they are first written.
            self._rows = torch.empty(shape, dtype=row.dtype, device=row.device)
        else:
            self._rows = _on_disk(folder, shape, row.dtype)
        self._device = row.device
        self._place: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """The size of the stored rows in bytes."""
        row = self._rows[:1]
        return len(self._place) * row.numel() * row.element_size()

    def __len__(self) -> int:
        return len(self._place)

    def has(self, keys: Sequence[int]) -> list[bool]:
        """Whether each sample's row is stored."""
        return [key in self._place for key in keys]

    def put(self, keys: Sequence[int], rows: Tensor) -> None:
        """Stores rows, (B, ...), as many as still fit."""
        new = [i for i, key in enumerate(keys) if key not in self._place]
        new = new[: self.capacity - len(self._place)]
        places = range(len(self._place), len(self._place) + len(new))
        if new:
            self._rows[places.start : places.stop] = rows[new].to(self._rows.device)
        self._place.update(zip((keys[i] for i in new), places, strict=True))

    def get(self, keys: Sequence[int]) -> Tensor:
        """Returns a copy of the rows of stored samples, (B, ...)."""
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
