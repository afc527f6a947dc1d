"""The predictor's input (Sec. 3.2): layer tailoring and the attention window of past weights."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.layers import Layer


def sample_indices(name: str, numel: int, size: int = 1024) -> Tensor:
    """Which weights stand for a layer: drawn at random, but always the same for the same name.

    Only the layer's name seeds the draw, so that every process, platform and resumed run follows
    the same weights.

    Args:
        name: the layer's name.
        numel: how many weights it has.
        size: how many to sample.

    Returns:
        (size,) int64, ascending: distinct indices below ``numel``, or, where the layer has fewer
        weights than ``size``, every index equally often (up to one).
    """
    if numel < size:
        return torch.arange(size) * numel // size
    return torch.tensor(sorted(random.Random(name).sample(range(numel), size)))


def sample_positions(layer: Layer, size: int = 1024) -> list[Tensor]:
    """Splits a layer's sampled indices over its weight matrices.

    Args:
        layer: its weight matrices, seen as one flat vector, are sampled from.
        size: how many weights to sample.

    Returns:
        For each weight matrix the sampled indices into it (int64, on its device); ``size`` in all.
    """
    weights = _weights(layer)
    indices = sample_indices(layer.name, sum(weight.numel() for weight in weights), size)
    positions = []
    start = 0
    for weight in weights:
        inside = (indices >= start) & (indices < start + weight.numel())
        positions.append((indices[inside] - start).to(weight.device))
        start += weight.numel()
    return positions


def tailor(layer: Layer, positions: Sequence[Tensor] | None = None) -> Tensor:
    """Tailors a layer to a fixed size: a random subset of its weights (Sec. 3.2).

    The subset is drawn from the parameters of two or more dimensions (from all, if there are
    none). Only the sampled weights are read, whatever the memory format of a parameter.

    Args:
        layer: the layer.
        positions: from :func:`sample_positions`, where the layer is tailored many times; by
            default 1024 weights are sampled.

    Returns:
        (size,) float32 on the device of the weights: a copy.
    """
    positions = sample_positions(layer) if positions is None else positions
    values = [torch.take(w.detach(), p) for w, p in zip(_weights(layer), positions, strict=True)]
    return torch.cat(values).float()


BEGINNING = 2**31
"""The lag that reaches back to a layer's first record."""

PATH = BEGINNING + 1
"""In place of a lag: as far from the newest weights as their path since the first record is long,
``sum |w_j - w_(j - 1)|``."""


class WeightHistory:
    """The last tailored weights of every layer that still trains, and the first ones.

    Takes ``(window + 2) * size * 4`` bytes per layer, on the device of its weights (about 6 MB for
    ResNet-50 with the paper's 30 records of 1024 weights, Appendix C). All layers' records are in
    one tensor, so that one operation reads or writes them all.

    Args:
        window: how many records to keep.
        size: how many weights of a layer to record.

    Attributes:
        names: of the layers that were last recorded.
        counts: (L,) int64 on the CPU, how often each of them has been recorded.
    """

    def __init__(self, window: int = 30, size: int = 1024) -> None:
        self.window = window
        self.size = size
        self.names: list[str] = []
        self.counts = torch.zeros(0, dtype=torch.int64)
        self._positions: dict[str, list[Tensor]] = {}
        # A record overwrites the oldest one, in place; the newest is at ``_newest``.
        self._ring = torch.zeros(0, window, size)
        self._newest = -1
        self._first = torch.zeros(0, size)
        self._path = torch.zeros(0, size)

    def record(self, layers: Sequence[Layer]) -> Tensor:
        """Adds the current weights of ``layers`` and forgets all other layers.

        Args:
            layers: at least one; their weights on one device.

        Returns:
            The weights, (L, size) float32.
        """
        self._keep([layer.name for layer in layers])
        weights = torch.stack([tailor(layer, self._positions_of(layer)) for layer in layers])
        # Records from a checkpoint may be on another device.
        self._ring, self._first, self._path = (
            tensor.to(weights.device) for tensor in (self._ring, self._first, self._path)
        )
        new = (self.counts == 0).nonzero()[:, 0].tolist()
        if new:
            # Before its first record, a layer is taken to have been as it is then.
            self._ring[new] = weights[new, None]
            self._first[new] = weights[new]
        self._path += (weights - self._ring[:, self._newest]).abs()
        self._newest = (self._newest + 1) % self.window
        self._ring[:, self._newest] = weights
        self.counts += 1
        return weights

    def earlier(self, lags: Sequence[int]) -> Tensor:
        """The weights of the layers last recorded, each as it was some records before the newest.

        Args:
            lags: weight p is taken from ``lags[p % len(lags)]`` records before, or from the
                layer's first record, if it has fewer. Less than ``window``, or :data:`BEGINNING`,
                or :data:`PATH`.

        Returns:
            (L, size).
        """
        earlier = torch.zeros_like(self._first)
        for i, lag in enumerate(lags):
            part = slice(i, None, len(lags))
            if lag == BEGINNING:
                earlier[:, part] = self._first[:, part]
            elif lag == PATH:
                earlier[:, part] = self._ring[:, self._newest, part] - self._path[:, part]
            else:
                earlier[:, part] = self._ring[:, (self._newest - lag) % self.window, part]
        return earlier

    def window_of(self, layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
        """The recorded weights of some layers, side by side.

        Args:
            layers: at least one, among those that :meth:`record` was last given; their weights on
                one device.

        Returns:
            The history (L, T, size), float32, oldest first, where T is the number of records of
            the layer that has most; and which of it is valid, (L, T) bool. A layer recorded less
            often than others has zeros, not valid, in front.

        Raises:
            ValueError: a layer was never recorded.
        """
        row_of = {name: row for row, name in enumerate(self.names)}
        for layer in layers:
            if layer.name not in row_of:
                raise ValueError(f"Layer {layer.name!r} has no weight history: record it first.")
        rows = [row_of[layer.name] for layer in layers]
        counts = self.counts[rows].clamp_max(self.window)
        ages = torch.arange(int(counts.max())).flip(0)
        valid = (ages < counts[:, None]).to(self._ring.device)
        history = self._ring[rows][:, (self._newest - ages) % self.window]
        return history.masked_fill(~valid[..., None], 0), valid

    def state_dict(self) -> dict[str, Any]:
        """The records and the names of their layers."""
        return {
            "names": list(self.names),
            "ring": self._ring.clone(),
            "newest": self._newest,
            "first": self._first.clone(),
            "path": self._path.clone(),
            "counts": self.counts.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the records of another history, on whichever device they are.

        Raises:
            ValueError: they were recorded with another ``window`` or ``size``.
        """
        if state["ring"].shape[1:] != (self.window, self.size):
            raise ValueError(
                f"This history keeps (records, weights) = {tuple(state['ring'].shape[1:])}, not "
                f"{(self.window, self.size)}: resume with what it was recorded with."
            )
        self.names = list(state["names"])
        self._ring, self._first = state["ring"].clone(), state["first"].clone()
        self._path = state["path"].clone()
        self._newest, self.counts = state["newest"], state["counts"].cpu().clone()

    def _keep(self, names: list[str]) -> None:
        tensors = (self._ring, self._first, self._path, self.counts)
        self._ring, self._first, self._path, self.counts = (
            carried_over(tensor, self.names, names) for tensor in tensors
        )
        self._positions = {n: self._positions[n] for n in names if n in self._positions}
        self.names = names

    def _positions_of(self, layer: Layer) -> list[Tensor]:
        if layer.name not in self._positions:
            self._positions[layer.name] = sample_positions(layer, self.size)
        return self._positions[layer.name]


def carried_over(tensor: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """The rows of a tensor that belong to the layers ``old``, for ``new`` ones; else zeros."""
    if old == new:
        return tensor
    row_of = {name: row for row, name in enumerate(old)}
    kept = tensor.new_zeros(len(new), *tensor.shape[1:])
    to = [i for i, name in enumerate(new) if name in row_of]
    kept[to] = tensor[[row_of[new[i]] for i in to]]
    return kept


def _weights(layer: Layer) -> list[nn.Parameter]:
    """The layer's weight matrices; all its parameters, if it has none."""
    return [p for p in layer.params if p.ndim >= 2] or list(layer.params)
