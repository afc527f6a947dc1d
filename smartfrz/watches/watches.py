"""Watches over gradients, weights and buffers after a freeze."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from smartfrz.compilation import is_compiled
from smartfrz.layers import Layer
from smartfrz.memory import GradientWatch
from smartfrz.watches.frozen_buffers import FrozenBufferWatch
from smartfrz.watches.frozen_weights import FrozenWeightWatch
from smartfrz.watches.input_gradients import InputGradients


class Watches:
    """Watches gradients, weights and buffers after each freeze, for a few steps.

    Args:
        model: the model.
        optimizer: its optimizer, or several.

    Attributes:
        input_gradients: whether and why the backward pass runs through a frozen prefix.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer
        self.input_gradients = InputGradients(model)
        self._gradients = GradientWatch()
        self._weights = FrozenWeightWatch()
        self._buffers = FrozenBufferWatch()

    def check(self, layers: Sequence[Layer], frozen: Sequence[Layer]) -> None:
        """Raises or warns if something went wrong since the last call.

        Args:
            layers: all layers.
            frozen: those that are frozen.

        Raises:
            RuntimeError: reentrant activation checkpointing lost gradients, or the optimizer
                changed frozen weights.
        """
        self._check_gradients()
        self._weights.check()
        self.input_gradients.settle(front_is_frozen=layers[:1] == frozen[:1])
        self._buffers.end()

    def restart(self, active: Sequence[Layer], frozen: Sequence[Layer]) -> None:
        """Watches the next steps; called when layers were frozen or thawed.

        Args:
            active: the layers that train.
            frozen: the layers that are frozen.

        Raises:
            RuntimeError: the optimizer had changed frozen weights.
        """
        self._weights.check(is_last=True)
        self._weights.end()
        self._weights = FrozenWeightWatch(self.optimizer, frozen)
        self.input_gradients.watch()
        self._gradients.end()
        # Its hooks would trigger one more compilation; compiled code has no reentrant checkpoints.
        is_watched = not is_compiled(self.model)
        self._gradients = GradientWatch(filter(_has_gradient, active) if is_watched else ())

    def watch_buffers(self, frozen: Sequence[Layer]) -> None:
        """Watches the buffers of frozen layers until the next `check`."""
        self._buffers = FrozenBufferWatch(self.model, frozen)

    def _check_gradients(self) -> None:
        lost = self._gradients.end()
        self._gradients = GradientWatch()
        if lost:
            raise RuntimeError(
                f"The layers {lost} still train but received no gradient after the layers before "
                "them were frozen, as happens with reentrant activation checkpointing. Pass "
                "use_reentrant=False to torch.utils.checkpoint (transformers: "
                "gradient_checkpointing_kwargs)."
            )


def _has_gradient(layer: Layer) -> bool:
    return any(param.grad is not None for param in layer.params)
