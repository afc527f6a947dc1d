"""Layer tailoring (Sec. 3.2): a random subset of a layer's weights, as many of every layer."""

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


def tailor(layer: Layer, size: int = 1024) -> Tensor:
    """Tailors a layer to a fixed size: a random subset of its weights.

    The subset is drawn from the parameters of two or more dimensions (from all, if there are
    none). Only the sampled weights are read, whatever the memory format of a parameter.

    Args:
        layer: the layer.
        size: how many weights to sample.

    Returns:
        (size,) float32 on the device of the weights: a copy.
    """
    pairs = zip(_weights(layer), sample_positions(layer, size), strict=True)
    return torch.cat([weight.detach().take(positions) for weight, positions in pairs]).float()


class Tailor:
    """Tailors layers many times: as `tailor`, but the subset of each is drawn once.

    It is read by offsets into memory, which takes half the time of reading by positions.

    Args:
        size: how many weights to sample.
    """

    def __init__(self, size: int = 1024) -> None:
        self.size = size
        self._offsets: dict[str, tuple[list[Any], list[Tensor]]] = {}

    def __call__(self, layer: Layer) -> Tensor:
        """A layer's sampled weights, (size,) float32: a copy."""
        weights = _weights(layer)
        layout = [(weight.stride(), weight.device) for weight in weights]
        known, offsets = self._offsets.get(layer.name, (None, []))
        if known != layout:
            positions = sample_positions(layer, self.size)
            offsets = [_offsets(w, p) for w, p in zip(weights, positions, strict=True)]
            self._offsets[layer.name] = layout, offsets
        values = [_memory(w).index_select(0, o) for w, o in zip(weights, offsets, strict=True)]
        return (values[0] if len(values) == 1 else torch.cat(values)).float()


def judged_by(layers: Sequence[Layer]) -> list[int]:
    """For each layer the index of the one whose weights tell whether it is done.

    That is its own, but for embeddings: the first layer behind it that is none. Most rows of an
    embedding are of words that are seldom seen, so that most of its weights stand still from the
    start, however much it has to learn. Not in the paper.

    Args:
        layers: in execution order.
    """
    indices = list(range(len(layers)))
    for i in reversed(indices[:-1]):
        if isinstance(layers[i].modules[0], (nn.Embedding, nn.EmbeddingBag)):
            indices[i] = indices[i + 1]
    return indices


def _offsets(weight: Tensor, positions: Tensor) -> Tensor:
    """Where in memory the weights at these positions are, in elements."""
    indices = torch.unravel_index(positions, weight.shape)
    strides = weight.stride()
    return sum(
        (index * stride for index, stride in zip(indices, strides, strict=True)),
        torch.zeros_like(positions),
    )


def _memory(weight: Tensor) -> Tensor:
    """The weight's memory, from its first element to its last."""
    sizes = zip(weight.shape, weight.stride(), strict=True)
    return weight.detach().as_strided((1 + sum((n - 1) * stride for n, stride in sizes),), (1,))


def _weights(layer: Layer) -> list[nn.Parameter]:
    """The layer's weight matrices; all its parameters, if it has none."""
    return [p for p in layer.params if p.ndim >= 2] or list(layer.params)
