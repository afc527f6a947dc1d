"""The predictor's input (Sec. 3.2): layer tailoring and the attention window of past weights."""

import random
from collections import deque
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


class WeightHistory:
    """The attention window: the last tailored weights of every layer that still trains.

    Takes ``window * size * 4`` bytes per layer, on the device of its weights (about 6 MB for
    ResNet-50 with the paper's 30 records of 1024 weights, Appendix C).

    Args:
        window: how many records to keep.
        size: how many weights of a layer to record.
    """

    def __init__(self, window: int = 30, size: int = 1024) -> None:
        self.window = window
        self.size = size
        self._records: dict[str, deque[Tensor]] = {}
        self._positions: dict[str, list[Tensor]] = {}

    def record(self, layers: Sequence[Layer]) -> None:
        """Adds the current weights of ``layers`` and forgets all other layers."""
        self._positions = {layer.name: self._positions_of(layer) for layer in layers}
        self._records = {layer.name: self._extended(layer) for layer in layers}

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
        for layer in layers:
            if layer.name not in self._records:
                raise ValueError(f"Layer {layer.name!r} has no weight history: record it first.")
        length = max(len(self._records[layer.name]) for layer in layers)
        device = _weights(layers[0])[0].device
        history = torch.zeros(len(layers), length, self.size, device=device)
        valid = torch.zeros(len(layers), length, dtype=torch.bool, device=device)
        for row, layer in enumerate(layers):
            records = self._records[layer.name]
            history[row, length - len(records) :] = torch.stack(list(records))
            valid[row, length - len(records) :] = True
        return history, valid

    def state_dict(self) -> dict[str, Any]:
        """The records: for each layer's name a (records, size) tensor, oldest first."""
        return {name: torch.stack(list(records)) for name, records in self._records.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the records of another history, on whichever device they are.

        Raises:
            ValueError: they were recorded with another ``size``.
        """
        for name, records in state.items():
            if records.shape[-1] != self.size:
                raise ValueError(
                    f"The history of layer {name!r} has {records.shape[-1]} weights per record, "
                    f"not {self.size}: resume with the size that it was recorded with."
                )
        self._records = {
            name: deque((record.clone() for record in records), maxlen=self.window)
            for name, records in state.items()
        }

    def _positions_of(self, layer: Layer) -> list[Tensor]:
        return self._positions.get(layer.name) or sample_positions(layer, self.size)

    def _extended(self, layer: Layer) -> deque[Tensor]:
        newest = tailor(layer, self._positions[layer.name])
        # Records from a checkpoint may be on another device.
        past = (record.to(newest.device) for record in self._records.get(layer.name, ()))
        return deque((*past, newest), maxlen=self.window)


def _weights(layer: Layer) -> list[nn.Parameter]:
    """The layer's weight matrices; all its parameters, if it has none."""
    return [p for p in layer.params if p.ndim >= 2] or list(layer.params)
