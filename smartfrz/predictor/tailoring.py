"""Layer tailoring (Sec. 3.2): random subsets of a fixed size from each layer's weights."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.graph import memory_of
from smartfrz.layers import Layer
from smartfrz.sharding import joined, local, local_indices


def sample_indices(name: str, numel: int, size: int = 1024) -> Tensor:
    """Draws the indices of the weights that represent a layer.

    The layer's name is the only seed of the draw, so every process, platform and resumed run
    samples the same weights.

    Args:
        name: the layer's name.
        numel: the number of weights of the layer.
        size: the number of weights to sample.

    Returns:
        (size,) int64, ascending. The indices are below ``numel`` and distinct. If the layer has
        fewer weights than ``size``, every index occurs equally often, up to a difference of one.
    """
    if numel < size:
        return torch.arange(size) * numel // size
    return torch.tensor(sorted(random.Random(name).sample(range(numel), size)))


def sample_positions(layer: Layer, size: int = 1024) -> list[Tensor]:
    """Splits a layer's sampled indices by weight matrix.

    A complex matrix counts as its real view, ``torch.view_as_real``, with twice as many weights.

    Args:
        layer: the layer, whose weight matrices are sampled as one flat vector.
        size: the number of weights to sample.

    Returns:
        For each weight matrix, the sampled indices into it (int64, on its device); ``size`` in all.
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


class Tailor:
    """Tailors layers to a fixed size: reads a random subset of each layer's weights.

    The subset is drawn from the parameters of two or more dimensions, or from all parameters if
    there are none; complex ones count as pairs of real weights. It is drawn once per layer and read
    by memory offsets, for any memory format of the parameters, which takes half the time of
    indexing by position. Of sharded parameters, each process reads its own part, and only the
    sampled weights are communicated.

    Args:
        size: the number of weights to sample.
    """

    def __init__(self, size: int = 1024) -> None:
        self.size = size
        self._offsets: dict[str, tuple[list[Any], list[tuple[Tensor, Tensor]]]] = {}

    def __call__(self, layer: Layer) -> Tensor:
        """Returns a copy of a layer's sampled weights, (size,) float32, on their device.

        A collective call if the layer is sharded.
        """
        tensors = _weights(layer)
        layout = [(tensor.stride(), tensor.device) for tensor in tensors]
        known, offsets = self._offsets.get(layer.name, (None, []))
        if known != layout:
            positions = sample_positions(layer, self.size)
            offsets = [_offsets(t, p) for t, p in zip(tensors, positions, strict=True)]
            self._offsets[layer.name] = layout, offsets
        values = [_read(t, *o) for t, o in zip(tensors, offsets, strict=True)]
        return (values[0] if len(values) == 1 else torch.cat(values)).float()

    def all(self, layers: Sequence[Layer]) -> Tensor:
        """Returns the sampled weights of layers, (L, size), on the device of the first."""
        tailored = [self(layer) for layer in layers]
        # The layers of a model may be on several devices.
        return torch.stack([weights.to(tailored[0].device) for weights in tailored])


def deciding_layers(layers: Sequence[Layer]) -> list[int]:
    """Returns, for each layer, the index of the layer whose weights decide whether to freeze it.

    This is the layer itself, except for embeddings, which freeze with the first layer behind them
    that is not an embedding. Most rows of an embedding belong to rare words, so most of its weights
    hardly move from the start, even if it has not converged. Not in the paper.

    Args:
        layers: the layers, in execution order.

    Returns:
        One index into ``layers`` per layer. Embeddings at the very end use the last layer.
    """
    indices = list(range(len(layers)))
    for i in reversed(indices[:-1]):
        if isinstance(layers[i].modules[0], (nn.Embedding, nn.EmbeddingBag)):
            indices[i] = indices[i + 1]
    return indices


def _offsets(weight: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which of the weights this process holds, and their memory offsets, in elements."""
    positions = positions.to(local(weight).device)
    held, indices = local_indices(weight, positions)
    strides = local(weight).stride()
    offsets = sum(
        (index * stride for index, stride in zip(indices, strides, strict=True)),
        torch.zeros_like(positions)[held],
    )
    return held, offsets


def _read(weight: Tensor, held: Tensor, offsets: Tensor) -> Tensor:
    return joined(memory_of(local(weight)).index_select(0, offsets), held, weight)


def _weights(layer: Layer) -> list[Tensor]:
    """Returns the layer's weight matrices, or all parameters if it has none, as real numbers."""
    params = [p for p in layer.params if p.ndim >= 2] or list(layer.params)
    return [torch.view_as_real(p.detach()) if p.is_complex() else p for p in params]
