"""A store of feature rows by sample, in memory or on disk, with a limit in bytes."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_CHUNKS = 64
"""Number of allocations in which the budget is spent."""


class FeatureStore:
    """Stores one row per sample until the budget is spent.

    Memory is allocated in chunks as rows arrive, and given back in chunks as rows are dropped.

    Args:
        row: an example row, which determines shape, dtype and device.
        budget_bytes: memory limit of all rows.
        folder: folder for memory-mapped files; ``None`` for the memory of the row's device. The
            files are unlinked at once, so they disappear when the process ends, in whatever way.

    Attributes:
        capacity: the number of rows that fit.
    """

    def __init__(self, row: Tensor, budget_bytes: int, folder: Path | None = None) -> None:
        self._row_bytes = row.numel() * row.element_size()
        self.capacity = budget_bytes // max(1, self._row_bytes)
        self._shape, self._dtype, self._device = row.shape, row.dtype, row.device
        self._folder = folder
        self._chunk_rows = max(1, self.capacity // _CHUNKS)
        self._chunks: list[Tensor] = []
        # Rows lie in the places from 0 on, without gaps.
        self._keys: list[int] = []
        self._place: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """The size of the allocated memory in bytes."""
        return sum(len(chunk) for chunk in self._chunks) * self._row_bytes

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, keys: Sequence[int]) -> list[bool]:
        """Whether each sample's row is stored."""
        return [key in self._place for key in keys]

    def fitting(self, keys: Sequence[int]) -> dict[int, int]:
        """Returns the samples that are not stored and still fit, with their first index."""
        new: dict[int, int] = {}
        for index, key in enumerate(keys):
            if key not in self._place and len(self) + len(new) < self.capacity:
                new.setdefault(key, index)
        return new

    def bytes_with(self, count: int) -> int:
        """Returns the size of the allocated memory after storing ``count`` more rows."""
        chunks = -(-(len(self) + count) // self._chunk_rows)
        rows = min(chunks * self._chunk_rows, self.capacity)
        return max(self.nbytes, rows * self._row_bytes)

    def put(self, keys: Sequence[int], rows: Tensor) -> None:
        """Stores rows, (B, ...), as many as still fit; of a repeated sample, the first."""
        new = self.fitting(keys)
        if not new:
            return
        selected = take(rows, list(new.values())).to(self._storage_device)
        start = len(self)
        self._keys += new
        self._place |= zip(new, range(start, len(self)), strict=True)
        while selected.shape[0]:
            chunk, offset = divmod(start, self._chunk_rows)
            if chunk == len(self._chunks):
                self._chunks.append(self._allocated(min(self._chunk_rows, self.capacity - start)))
            part = self._chunks[chunk][offset : offset + len(selected)]
            part.copy_(selected[: len(part)])
            start, selected = start + len(part), selected[len(part) :]

    def get(self, keys: Sequence[int]) -> Tensor:
        """Returns a copy of the rows of stored samples, (B, ...)."""
        # Selected one by one, because a tensor of indices would be copied to the device.
        rows = torch.stack([self._row(self._place[key]) for key in keys])
        return rows.to(self._device, non_blocking=True)

    def drop(self, keys: Sequence[int]) -> None:
        """Removes the rows of samples, where stored, and gives back the chunks no longer needed."""
        for key in keys:
            place = self._place.pop(key, None)
            if place is None:
                continue
            last = self._keys.pop()
            if last != key:
                self._row(place).copy_(self._row(len(self)))
                self._keys[place], self._place[last] = last, place
        del self._chunks[-(-len(self) // self._chunk_rows) :]

    def shrink(self, budget_bytes: int) -> None:
        """Removes as many rows as it takes to keep within a smaller budget."""
        while self.nbytes > max(0, budget_bytes):
            last_chunk = self._keys[(len(self._chunks) - 1) * self._chunk_rows :]
            self.drop(last_chunk[::-1])

    @property
    def _storage_device(self) -> torch.device:
        return self._device if self._folder is None else torch.device("cpu")

    def _row(self, place: int) -> Tensor:
        chunk, offset = divmod(place, self._chunk_rows)
        return self._chunks[chunk][offset]

    @torch.inference_mode(False)  # inference tensors could not be written to later
    def _allocated(self, count: int) -> Tensor:
        shape = (count, *self._shape)
        if self._folder is None or not self._row_bytes:
            return torch.empty(shape, dtype=self._dtype, device=self._storage_device)
        return _on_disk(self._folder, shape, self._dtype)


def take(rows: Tensor, indices: Sequence[int]) -> Tensor:
    """Returns the rows at increasing indices.

    Unlike with a tensor of indices, the host does not wait for the rows' device.
    """
    if len(indices) == len(rows):
        return rows
    return torch.stack([rows[i] for i in indices])


def _on_disk(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    size = torch.Size(shape).numel()
    rows = torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    os.unlink(name)
    return rows
