"""The attention window of past weights (Sec. 3.2): what is kept of a training, and of what time."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor.tailoring import Tailor

KEPT = 32
"""How many records of the past are kept, evenly spaced from the first to the newest."""

PREVIOUS = 1.0
"""As a fraction of the time so far: the record before the newest, however many there are."""

PATH = math.inf
"""In place of a fraction: as far from the newest weights as their path since the first record is
long, ``sum |w_j - w_(j - 1)|``."""


def kept_before(record: int, fraction: float) -> int:
    """Which of the records that are kept was made after a fraction of the time so far.

    Every second record that is kept is dropped whenever there would be more than `KEPT`. So
    the spacing of those that remain grows with time, and whoever looks back by fractions of it
    sees much the same, however often records are made.

    Args:
        record: index of the newest record; the first has 0.
        fraction: of the time from the first record to the newest, or `PREVIOUS`.

    Returns:
        The index of a record before the newest one (of the first, if there is no other).
    """
    if fraction == PREVIOUS:
        return max(0, record - 1)
    return int(fraction * record) // spacing(record) * spacing(record)


def spacing(record: int) -> int:
    """Records from one that is kept to the next, when ``record`` is the newest."""
    return 1 << (record // KEPT).bit_length()


class WeightHistory:
    """The tailored weights of all layers of a training, from its first record on.

    A layer that is recorded no more is frozen: it is taken to stay as it was, since what it did
    before still tells of the layers behind it. Takes ``(KEPT + 3) * size * 4`` bytes per layer, on
    the device of its weights (about 7 MB for ResNet-50 with 1024 weights; with the paper's window
    of 30 records 6 MB, Appendix C). All layers' records are in one tensor, so that one operation
    reads or writes them all.

    Args:
        size: how many weights of a layer to record.

    Attributes:
        names: of all L layers, those of the first record.
        rows: which of them were recorded last.
    """

    def __init__(self, size: int = 1024) -> None:
        self.size = size
        self.names: list[str] = []
        self.rows: list[int] = []
        self._tailor = Tailor(size)
        self._record = -1
        self._kept = torch.zeros(0, KEPT, size)
        self._previous, self._newest, self._path = (torch.zeros(0, size) for _ in range(3))

    def record(self, layers: Sequence[Layer]) -> Tensor:
        """Adds the current weights of ``layers``.

        Args:
            layers: at first all, later those that still train, in the same order; at least one.

        Returns:
            The weights of all layers, (L, size) float32.
        """
        tailored = [self._tailor(layer) for layer in layers]
        # A model may be spread over several devices.
        current = torch.stack([weights.to(tailored[0].device) for weights in tailored])
        if self._record < 0:
            # Before its first record, a layer is taken to have been as it is then.
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
    def is_first(self) -> bool:
        """Whether there is no record before the newest."""
        return self._record == 0

    def earlier(self, fractions: Sequence[float]) -> Tensor:
        """The weights of the layers last recorded, each as it was some time before.

        Args:
            fractions: of the time so far: weight p is taken from the record that
                `kept_before` tells for ``fractions[p % len(fractions)]``; `PREVIOUS`
                and `PATH` are allowed.

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

    def state_dict(self) -> dict[str, Any]:
        """The records and the names of their layers."""
        return {
            "names": list(self.names),
            "rows": list(self.rows),
            "record": self._record,
            "kept": self._kept.clone(),
            "previous": self._previous.clone(),
            "newest": self._newest.clone(),
            "path": self._path.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the records of another history, on whichever device they are.

        Raises:
            ValueError: they were recorded with another ``size``.
        """
        if state["newest"].shape[1] != self.size:
            raise ValueError(
                f"This history has {state['newest'].shape[1]} weights per record, not "
                f"{self.size}: resume with the size that it was recorded with."
            )
        self.names, self.rows = list(state["names"]), list(state["rows"])
        self._record = state["record"]
        self._kept, self._previous, self._newest, self._path = (
            state[name].clone() for name in ("kept", "previous", "newest", "path")
        )
