"""Two gentle ways of freezing the body, variants of the control `PrefixThenBody`.

A layer that trains at a high learning rate is frozen with the noise of its last steps. This noise
falls if the updates end gradually, or if the layer is frozen at the mean of its recent weights.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smartfrz import Freezer, Layer, PrefixThenBody
from smartfrz.optimizers import with_step_hooks
from smartfrz.sharding import local


class AnnealedBody(PrefixThenBody):
    """Policy: `PrefixThenBody`, with the updates of the body annealed to zero before it freezes.

    In the last part of the steps from the start to the one at which a layer freezes, its updates
    are scaled by a factor that falls from one to zero along half a cosine. The scaling follows each
    step of the optimizer and, with SGD and AdamW, has the effect of a learning rate that is scaled
    by the factor: any schedule goes on, and parameter groups stay as they are. Layers that do not
    freeze within the run are not annealed.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        prefix: see `PrefixThenBody`.
        compute: the fraction of full training's compute that the run spends.
        anneal: the fraction of the steps before a layer freezes over which it is annealed, in
            [0, 1].
        freeze: False for a diagnostic with the same learning rates and nothing frozen, which tells
            the effect of freezing from that of the rates: where a layer would be frozen, its
            updates are zero. It has constant weights, but costs as much as any other, and its norms
            go on in training mode.

    Raises:
        ValueError: ``anneal`` is out of range; see `Scheduled` for others.
    """

    def __init__(
        self,
        total_steps: int,
        prefix: float = 0.75,
        compute: float = 0.58,
        anneal: float = 0.3,
        freeze: bool = True,
    ) -> None:
        super().__init__(total_steps, prefix, compute)
        _check_fraction("anneal", anneal)
        self.anneal, self.freeze = anneal, freeze
        self._before: dict[Tensor, tuple[Tensor, float]] = {}

    def attach(self, freezer: Freezer) -> None:
        """Plans the run for the freezer's layers, and follows the steps of its optimizer."""
        super().attach(freezer)
        for each in with_step_hooks(freezer.optimizer):
            each.register_step_post_hook(self._scale_updates)

    def is_due(self, step: int) -> bool:
        """Whether layers freeze at this step."""
        return self.freeze and super().is_due(step)

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose step is reached, and prepares the scaling of the others."""
        due = super().layers_to_freeze(active, step)
        self._before = {
            param: (local(param).detach().clone(), factor)
            for layer in active
            if (factor := self.factor(layer.name, step)) < 1
            for param in layer.params
        }
        return due if self.freeze else []

    def factor(self, name: str, step: int) -> float:
        """Returns the factor, from 0 to 1, by which a layer's update at a step is scaled."""
        if name not in self._steps:
            return 1.0
        left, span = self._steps[name] - step, self.anneal * self._steps[name]
        if left <= 0:
            return 0.0
        return 1.0 if left >= span else 0.5 * (1 - math.cos(math.pi * left / span))

    @torch.no_grad()
    def _scale_updates(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for param in group["params"]:
                # Taken out, since an optimizer may step inside another one.
                before, factor = self._before.pop(param, (None, 1.0))
                if before is not None:
                    local(param).lerp_(before, 1 - factor)


class AveragedBody(PrefixThenBody):
    """Policy: `PrefixThenBody`, with each layer of the body frozen at the mean of its weights.

    The mean is over the last part of the steps from the start to the one at which the layer
    freezes. The running statistics of its norms are averaged likewise: to first order in the
    distance of the weights from their mean, these are the statistics that belong to it.

    Args:
        total_steps: optimizer steps of the whole run; see `Scheduled`.
        prefix: see `PrefixThenBody`.
        compute: the fraction of full training's compute that the run spends.
        average: the fraction of the steps before a layer freezes that the mean is over, in [0, 1].

    Raises:
        ValueError: ``average`` is out of range; see `Scheduled` for others.
    """

    def __init__(
        self,
        total_steps: int,
        prefix: float = 0.75,
        compute: float = 0.58,
        average: float = 0.3,
    ) -> None:
        super().__init__(total_steps, prefix, compute)
        _check_fraction("average", average)
        self.average = average
        self._means: dict[str, tuple[int, list[Tensor]]] = {}

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers whose step is reached, which have been set to their means."""
        for layer in active:
            self._average(layer, step)
        return super().layers_to_freeze(active, step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule, how far it has been carried out, and the means so far."""
        return {**super().state_dict(), "means": dict(self._means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state; plans the rest of it anew if the length of the run has changed."""
        super().load_state_dict(state)
        self._means = dict(state["means"])

    @torch.no_grad()
    def _average(self, layer: Layer, step: int) -> None:
        """Adds a layer's weights to their mean, and sets them to it if the layer freezes."""
        end = self._steps.get(layer.name, 0)
        count, means = self._means.pop(layer.name, (0, None))
        if end == 0 or not (1 - self.average) * end <= step <= end:
            return
        values = [local(each) for each in (*layer.params, *_statistics(layer))]
        means = [
            mean.to(value.device).lerp(value, 1 / (count + 1))
            for mean, value in zip(means or values, values, strict=True)
        ]
        if step < end:
            self._means[layer.name] = count + 1, means
            return
        for value, mean in zip(values, means, strict=True):
            value.copy_(mean)


def _statistics(layer: Layer) -> list[Tensor]:
    """Returns the running statistics of a layer's norms."""
    buffers = [buffer for norm in layer.norms for buffer in norm.buffers()]
    return [buffer for buffer in buffers if buffer.is_floating_point()]


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name}={value} must be between 0 and 1: it is a fraction of the steps before a layer "
            "freezes."
        )
