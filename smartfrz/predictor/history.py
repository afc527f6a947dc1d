"""The history of tailored weights (Sec. 3.2), thinned out evenly over time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor.tailoring import Tailor

KEPT = 32
"""Maximum number of records that are kept, evenly spaced from the first to the newest."""

PREVIOUS = 1.0
"""Special fraction of the elapsed time: the record before the newest."""

PATH = math.inf
"""Special fraction: the newest weights minus the length of their path since the first record,
``sum |w_j - w_(j - 1)|``."""


def kept_before(record: int, fraction: float) -> int:
    """Returns the index of the kept record at a fraction of the elapsed time.

    Whenever there would be more than `KEPT` records, every second one is dropped. The spacing of
    the remaining records therefore grows with time, and the record at a given fraction depends
    little on the recording interval.

    Args:
        record: index of the newest record, from 0.
        fraction: fraction of the time from the first record to the newest, or `PREVIOUS`.

    Returns:
        The index of a record before the newest one, or 0 if there is no other.
    """
    if fraction == PREVIOUS:
        return max(0, record - 1)
    return int(fraction * record) // spacing(record) * spacing(record)


def spacing(record: int) -> int:
    """Returns the distance between kept records, in records, if ``record`` is the newest."""
    return 1 << (record // KEPT).bit_length()


class WeightHistory:
    """The tailored weights of all layers of a run, from its first record on.

    A layer that is no longer recorded is frozen. It keeps its last weights in the history, because
    its earlier displacements still matter for the layers behind it. If it is recorded again, it
    counts as not having moved in between. The history takes
    ``(KEPT + 3) * size * 4`` bytes per layer, on the device of the weights (about 7 MB for
    ResNet-50 with 1024 weights; 6 MB with the paper's window of 30 records, Appendix C). The
    records of all layers are in one tensor, which one operation reads or writes.

    Args:
        size: number of weights to record per layer.
        read: returns what to record of layers, (number of layers, size) float32; by default their
            tailored weights.

    Attributes:
        names: the names of all L layers, those of the first record.
        rows: the indices of the layers recorded last.
    """

    def __init__(
        self, size: int = 1024, read: Callable[[Sequence[Layer]], Tensor] | None = None
    ) -> None:
        self.size = size
        self.read = read or Tailor(size).all
        self.names: list[str] = []
        self.rows: list[int] = []
        self._record = -1
        self._kept = torch.zeros(0, KEPT, size)
        self._previous, self._newest, self._path = (torch.zeros(0, size) for _ in range(3))

    @torch.inference_mode(False)  # inference tensors could not be written to later
    def record(self, layers: Sequence[Layer]) -> Tensor:
        """Adds the current weights of ``layers``.

        Args:
            layers: all layers at first, later those that train, in the same order; at least one.

        Returns:
            The weights of all layers, (L, size) float32.
        """
        current = self.read(layers)
        if self._record < 0:
            # A layer's weights before its first record are taken to equal those of the first.
            self.names = [layer.name for layer in layers]
            self._kept = current[:, None].repeat(1, KEPT, 1)
            self._newest, self._path = current, torch.zeros_like(current)
        # Records from a checkpoint may be on another device.
        self._kept, self._newest, self._path = (
            tensor.to(current.device) for tensor in (self._kept, self._newest, self._path)
        )
        row_of = {name: row for row, name in enumerate(self.names)}
        self.rows = [row_of[layer.name] for layer in layers]
        weights = current
        if len(layers) < len(self.names):
            weights = self._newest.clone()
            weights[self.rows] = current
        self._record += 1
        if spacing(self._record) > spacing(self._record - 1) and self._record:
            self._kept[:, : KEPT // 2] = self._kept[:, ::2].clone()
        slot, rest = divmod(self._record, spacing(self._record))
        if rest == 0:
            self._kept[:, slot] = weights
        self._path += (weights - self._newest).abs()
        self._previous, self._newest = self._newest, weights
        return weights

    @property
    def count(self) -> int:
        """The number of records so far."""
        return self._record + 1

    @property
    def is_first(self) -> bool:
        """Whether the newest record is the first."""
        return self._record == 0

    @property
    def has_moved(self) -> Tensor:
        """Whether any layer has moved since the record before: a bool on the weights' device.

        All layers stand still if a `GradScaler` skips the optimizer's steps, or while a warmup
        keeps the learning rate at zero, which is no sign of convergence. False at the first record.
        """
        return (self._newest != self._previous).any()

    def earlier(self, fractions: Sequence[float]) -> Tensor:
        """Returns earlier weights of all layers, each weight from its own time.

        Args:
            fractions: fractions of the elapsed time, `PREVIOUS` and `PATH` included. Weight p is
                taken from the record that `kept_before` returns for
                ``fractions[p % len(fractions)]``.

        Returns:
            (L, size).
        """
        earlier = torch.zeros_like(self._newest)
        for i, fraction in enumerate(fractions):
            part = slice(i, None, len(fractions))
            if fraction == PATH:
                earlier[:, part] = self._newest[:, part] - self._path[:, part]
            elif fraction == PREVIOUS:
                earlier[:, part] = self._previous[:, part]
            else:
                slot = kept_before(self._record, fraction) // spacing(self._record)
                earlier[:, part] = self._kept[:, slot, part]
        return earlier

    def before(self, fraction: float) -> Tensor:
        """Returns what was recorded of all layers at a fraction of the elapsed time, (L, size).

        Args:
            fraction: the fraction, see `kept_before`.
        """
        if fraction == PREVIOUS:
            return self._previous
        return self._kept[:, kept_before(self._record, fraction) // spacing(self._record)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the records and the names of their layers."""
        return {
            "names": list(self.names),
            "rows": list(self.rows),
            "record": self._record,
            "kept": self._kept.clone(),
            "previous": self._previous.clone(),
            "newest": self._newest.clone(),
            "path": self._path.clone(),
        }

    @torch.inference_mode(False)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the records of another history, on the device on which they are.

        Args:
            state: returned by `state_dict`.

        Raises:
            ValueError: the records have another ``size``.
        """
        if state["newest"].shape[1] != self.size:
            raise ValueError(
                f"The saved history has {state['newest'].shape[1]} weights per record, not "
                f"{self.size}. Resume with the size that it was recorded with."
            )
        self.names, self.rows = list(state["names"]), list(state["rows"])
        self._record = state["record"]
        self._kept, self._previous, self._newest, self._path = (
            state[name].clone() for name in ("kept", "previous", "newest", "path")
        )
