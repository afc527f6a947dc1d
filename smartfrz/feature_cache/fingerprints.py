"""Detection of samples whose inputs differ from those of an earlier batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_iter


class Fingerprints:
    """A number per sample that depends on every bit of its inputs, their shape and their dtype.

    The numbers are computed, kept and compared on the device of the inputs. On a GPU, a comparison
    is only read when the device has finished it, so that the host does not wait.
    """

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._known = torch.empty(0, dtype=torch.int64)
        self._factors: dict[tuple[int, torch.device], Tensor] = {}
        self._compared: list[tuple[Sequence[int], Tensor, Any]] = []

    @torch.inference_mode(False)  # inference tensors could not be written to later
    @torch.no_grad()
    def compare(self, samples: Sequence[int], inputs: Any) -> None:
        """Compares the inputs of a batch with those of the same samples in earlier batches.

        Args:
            samples: (B,) an integer per sample.
            inputs: any nesting of tensors. Those with B rows are compared.
        """
        found = self._computed(inputs, len(samples))
        count = len(self._place)
        places = [self._place.setdefault(sample, len(self._place)) for sample in samples]
        self._grow(found.device)
        # In pageable memory, which is copied before the call returns, without waiting for a GPU.
        index = torch.tensor(places, dtype=torch.int64).to(found.device, non_blocking=True)
        known = torch.where(index < count, self._known[index], found)
        self._known[index] = known
        # Read again, as a sample may appear twice.
        differs = self._known[index] != found
        event = None
        if differs.is_cuda:
            differs = differs.to("cpu", non_blocking=True)
            event = torch.cuda.current_stream(found.device).record_event()
        self._compared.append((samples, differs, event))

    def changed(self, wait: bool) -> list[int]:
        """Returns the samples whose inputs have been found to differ since the last call.

        Args:
            wait: whether to wait for comparisons that a GPU has not finished yet.
        """
        changed: list[int] = []
        while self._compared:
            samples, differs, event = self._compared[0]
            if event is not None:
                if not wait and not event.query():
                    break
                event.synchronize()
            changed += [
                sample for sample, bad in zip(samples, differs.tolist(), strict=True) if bad
            ]
            self._compared.pop(0)
        return changed

    def _grow(self, device: torch.device) -> None:
        missing = len(self._place) - len(self._known)
        more = max(missing, len(self._known)) if missing > 0 else 0
        if more or self._known.device != device:
            known = self._known.to(device, non_blocking=True)
            self._known = torch.cat([known, known.new_empty(more)])

    def _computed(self, inputs: Any, count: int) -> Tensor:
        leaves = [leaf for leaf in tree_iter(inputs) if has_rows(leaf, count)]
        devices = [leaf.device for leaf in leaves if leaf.device.type != "cpu"]
        device = devices[0] if devices else torch.device("cpu")
        total = torch.zeros(count, dtype=torch.int64, device=device)
        for leaf in leaves:
            words = _words(leaf)
            sums = (words * self._factors_for(words)).sum(1)
            kind = hash((leaf.shape[1:], leaf.dtype))
            total = 31 * total + kind + sums.to(device, non_blocking=True)
        return total

    def _factors_for(self, words: Tensor) -> Tensor:
        key = words.shape[1], words.device
        if key not in self._factors:
            generator = torch.Generator().manual_seed(0)
            factors = torch.randint(-(2**62), 2**62, key[:1], generator=generator)
            self._factors[key] = factors.to(words.device, non_blocking=True)
        return self._factors[key]


def has_rows(leaf: Any, count: int) -> bool:
    """Whether this is a tensor with one row per sample."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count


def _words(rows: Tensor) -> Tensor:
    """Returns the bits of each row as integers of 32 bits, padded with zeros: (B, n)."""
    rows = rows.resolve_conj().resolve_neg()
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:])).contiguous()
    octets = rows.view(torch.uint8)
    if octets.shape[1] % 4:
        octets = F.pad(octets, (0, -octets.shape[1] % 4))
    elif octets.storage_offset() % 4:
        octets = octets.clone()
    return octets.view(torch.int32)
