"""Sampled gradients of the last steps before each record, which a policy can afford to compare."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor import sample_indices
from smartfrz.sharding import local

PAIRS = 8
"""Pairs of successive steps that are compared before each record."""

_LAYERS = 16


class _Place(NamedTuple):
    """Where a layer's samples are: the index of its parameter, and offsets into the memory."""

    param: int
    shape: torch.Size
    stride: tuple[int, ...]
    length: int
    offsets: Tensor


class GradientSamples:
    """The gradients of the last `PAIRS` + 1 steps before each record, of a few weights.

    Reading them costs little: at most 16 layers besides the heads, evenly spaced, and of each of
    them random weights of its largest parameter. Nothing but `take` waits for a GPU. Of sharded
    parameters, each process reads its own part, without communication.

    Args:
        interval: steps between two records.
        size: number of sampled weights per layer.
    """

    def __init__(self, interval: int, size: int = 256) -> None:
        self.interval, self.size = interval, size
        self._places: dict[str, _Place] = {}
        self._steps: list[tuple[list[str], Tensor]] = []
        self._is_followed = False  # whether the first step is that of the last record

    def observe(self, layers: Sequence[Layer], step: int) -> None:
        """Reads a step's gradients if a record is near; called at every step.

        Args:
            layers: the layers that train.
            step: the index of the step, whose backward pass is complete.
        """
        if -step % self.interval > PAIRS:
            return
        spacing = math.ceil(len(layers) / _LAYERS)
        read = {
            layer.name: values
            for place, layer in enumerate(layers)
            if (layer.is_head or place % spacing == 0) and (values := self._read(layer)) is not None
        }
        if read:
            device = next(iter(read.values())).device
            rows = [each if each.device == device else each.to(device) for each in read.values()]
            self._steps.append(([*read], torch.stack(rows).float()))

    def take(self, heads: Sequence[Layer]) -> tuple[list[float], list[float]]:
        """Returns what the steps since the last record have in common, and starts anew.

        Args:
            heads: the layers whose gradients are measured.

        Returns:
            The cosines between the gradients of successive steps, and the squared norms of the
            heads' gradients in each step. Both may contain infinite values and NaN.
        """
        if not self._steps:
            return [], []
        device = self._steps[-1][1].device
        common = set.intersection(*(set(names) for names, _ in self._steps))
        shared = torch.stack([_rows(*each, common).to(device) for each in self._steps]).flatten(1)
        cosines = torch.cosine_similarity(shared[1:], shared[:-1])
        of_heads = {layer.name for layer in heads}
        new = self._steps[self._is_followed :]
        squares = [_rows(*each, of_heads).to(device).square().sum() for each in new]
        self._is_followed = self.interval <= PAIRS
        self._steps = self._steps[-1:] if self._is_followed else []
        found = torch.cat([cosines, *(each[None] for each in squares)]).tolist()
        return found[: len(cosines)], found[len(cosines) :]

    def state_dict(self) -> dict[str, Any]:
        """Returns the gradients since the last record."""
        return {"steps": list(self._steps), "is_followed": self._is_followed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._steps, self._is_followed = list(state["steps"]), state["is_followed"]

    def _read(self, layer: Layer) -> Tensor | None:
        """Returns a layer's samples; None without a gradient, or with a sparse one."""
        place = self._places.get(layer.name)
        params = layer.params
        largest = _largest(layer) if place is None else place.param
        gradient = params[largest].grad
        if gradient is None or gradient.is_sparse:
            return None
        gradient = local(gradient)
        if gradient.is_complex():
            gradient = torch.view_as_real(gradient)
        if not gradient.numel():
            return None
        stride = gradient.stride()
        if place is None or place.stride != stride or place.shape != gradient.shape:
            place = self._places[layer.name] = _place(layer.name, largest, gradient, self.size)
        memory = gradient.as_strided((place.length,), (1,))
        return memory.index_select(0, place.offsets)


def _largest(layer: Layer) -> int:
    return max(range(len(layer.params)), key=lambda index: layer.params[index].numel())


def _place(name: str, param: int, gradient: Tensor, size: int) -> _Place:
    stride = gradient.stride()
    indices = torch.unravel_index(sample_indices(name, gradient.numel(), size), gradient.shape)
    offsets = sum((i * s for i, s in zip(indices, stride, strict=True)), torch.zeros(size).long())
    length = 1 + sum((n - 1) * s for n, s in zip(gradient.shape, stride, strict=True))
    return _Place(param, gradient.shape, stride, length, offsets.to(gradient.device))


def _rows(names: list[str], values: Tensor, chosen: set[str]) -> Tensor:
    """Returns the rows of the chosen layers."""
    if len(names) == len(chosen):
        return values
    return values[[row for row, name in enumerate(names) if name in chosen]]
