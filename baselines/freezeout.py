"""FreezeOut, the "linear freezing" of the paper, which freezes layers on a fixed schedule.

Brock et al., "FreezeOut: Accelerate Training by Progressively Freezing Layers", 2017
(arXiv:1706.04983); SmartFRZ, Appendix B, Eq. 6. The learning rate of layer i of L (every output
head is layer L) follows a cosine from its base value to zero at the fraction t_i of the run. The
layer freezes at the first step after that:

    t_i = t_0 + (1 - t_0) i / L             linear; cubic: the cube of this value
    lr_i(t) = lr_i(0) / 2 (1 + cos(pi t / t_i))
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from smartfrz import Freezer
from smartfrz.layers import Layer, refreshed
from smartfrz.policies import check_compute, schedule_compute

_POWER = {"linear": 1, "cubic": 3}


def learning_rate(
    base_lr: float,
    step: int,
    total_steps: int,
    layer: int,
    num_layers: int,
    t0: float,
    how: str = "linear",
    scale: bool = False,
) -> float:
    """Returns the learning rate of one layer at one step (SmartFRZ, Eq. 6).

    Args:
        base_lr: the layer's learning rate at step 0, before ``scale``.
        step: number of optimizer steps taken so far.
        total_steps: optimizer steps of the whole run.
        layer: the layer's index i, 0 for the first layer and ``num_layers`` for the head.
        num_layers: L, the number of layers without the head.
        t0: the fraction of the run at which the first layer's rate reaches zero, in (0, 1]. The
            cubic schedule cubes it as well.
        how: ``"linear"`` or ``"cubic"``, the spacing of the t_i.
        scale: whether to divide the rate by t_i, which lets each layer move as far in its shorter
            time.

    Returns:
        The learning rate, zero from t_i on.

    Raises:
        ValueError: ``how`` is unknown or ``t0`` is out of range.
    """
    end = _end(layer, num_layers, t0, how)
    start = base_lr / end if scale else base_lr
    return float(_annealed(np.array(start), np.array(end * total_steps), step))


def freeze_step(
    total_steps: int, layer: int, num_layers: int, t0: float, how: str = "linear"
) -> int:
    """Returns the first step at which a layer is inactive: the first whole step after t_i T.

    At step t_i T itself, the rate is zero but the layer still counts as active, as in the authors'
    code. The head's freeze step is ``total_steps + 1``, which the run does not reach.

    Args:
        total_steps: T, the optimizer steps of the whole run.
        layer: the layer's index i, 0 for the first layer and ``num_layers`` for the head.
        num_layers: L, the number of layers without the head.
        t0: the fraction of the run at which the first layer's rate reaches zero, in (0, 1].
        how: ``"linear"`` or ``"cubic"``, the spacing of the t_i.

    Raises:
        ValueError: ``how`` is unknown or ``t0`` is out of range.
    """
    end_step = _end(layer, num_layers, t0, how) * total_steps
    # 0.7 ** 3 * 1000 is 342.99999999999994, which would floor to 342.
    return math.floor(round(end_step, 6)) + 1


def _annealed(starts: np.ndarray, ends: np.ndarray, step: int) -> np.ndarray:
    """Returns learning rates that start at ``starts`` and are zero from the steps ``ends`` on."""
    return 0.5 * starts * (1.0 + np.cos(np.pi * np.minimum(1.0, step / ends)))


def _end(layer: int, num_layers: int, t0: float, how: str) -> float:
    """Returns t_i, the fraction of the run at which a layer's rate reaches zero."""
    _check_schedule(t0, how)
    place = layer / num_layers if num_layers else 1.0  # a head alone is trained to the end
    return (t0 + (1.0 - t0) * place) ** _POWER[how]


def _check_schedule(t0: float, how: str) -> None:
    if how not in _POWER:
        raise ValueError(f"how={how!r} is not a FreezeOut schedule. Choose 'linear' or 'cubic'.")
    if not 0.0 < t0 <= 1.0:
        raise ValueError(
            f"t0={t0} must be more than 0 and at most 1: it is the fraction of the run at which "
            "the first layer freezes."
        )


def param_groups(model: nn.Module, layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Returns parameter groups with which each layer can have its own learning rate.

    Args:
        model: the model to train.
        layers: its layers, from ``find_layers(model)``.

    Returns:
        One group per layer, in order, and a last group for parameters in no layer, if there are
        any. Usage: ``torch.optim.SGD(param_groups(model, layers), lr=0.1)``.
    """
    layers = [refreshed(layer) for layer in layers]
    in_layers = {id(param) for layer in layers for param in layer.params}
    rest = [param for param in model.parameters() if id(param) not in in_layers]
    groups = [layer.parameters() for layer in layers] + ([rest] if rest else [])
    return [{"params": params} for params in groups]


class FreezeOut:
    """Policy: anneals the layers' learning rates to zero, one after the other, and freezes them.

    The policy sets the learning rates and replaces a learning-rate scheduler. At the first call it
    takes the layers from the arguments and their base rates from the optimizer. All heads and the
    parameters in no layer are annealed over the whole run.

    Args:
        optimizer: the optimizer of the model. No parameter group may span several layers; build
            it from `param_groups`.
        total_steps: optimizer steps of the whole run.
        t0: the fraction of the run at which the first layer freezes, in (0, 1]. Unused if
            ``compute`` is given.
        how: ``"linear"`` or ``"cubic"``, see `learning_rate`.
        scale: whether to divide each layer's rate by its t_i, see `learning_rate`.
        warmup_steps: number of steps of linear warmup of all rates; none in the papers.
        compute: the fraction of full training's compute that the run is to spend, at most 1. The
            `Freezer` then chooses t0; it is the largest that does not spend more. With
            ``freeze=False``, it is the same.
        freeze: False for a diagnostic with the same learning rates and nothing frozen, which tells
            the effect of freezing from that of the rates. A layer at rate zero has constant
            weights, but costs as much as any other, and its norms go on in training mode.

    Raises:
        ValueError: ``how`` is unknown or ``t0`` or ``compute`` is out of range, or, at the first
            call, a parameter group spans several layers. From the `Freezer`: the run spends more
            than ``compute`` with any ``t0``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        t0: float = 0.5,
        how: str = "linear",
        scale: bool = False,
        warmup_steps: int = 0,
        compute: float | None = None,
        freeze: bool = True,
    ) -> None:
        _check_schedule(t0, how)
        if compute is not None:
            check_compute(compute)
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.t0 = t0 if compute is None else math.nan  # until it is known
        self.how = how
        self.scale = scale
        self.warmup_steps = warmup_steps
        self.compute = compute
        self.freeze = freeze
        self._names: list[str] = []
        self._num_layers = 0  # without the heads
        self._layer_of_group: list[int] = []
        self._base_lrs: list[float] = []
        self._freeze_steps: dict[str, int] = {}
        self._frozen: dict[str, int] = {}
        self._starts, self._ends = np.zeros(0), np.zeros(0)  # per group

    def attach(self, freezer: Freezer) -> None:
        """Chooses t0, if the run is to spend a given compute."""
        if self.compute is None:
            return
        names = [layer.name for layer in freezer.layers if not layer.is_head]

        def spent(t0: float) -> float:
            steps = {
                name: freeze_step(self.total_steps, i, len(names), t0, self.how)
                for i, name in enumerate(names)
            }
            return schedule_compute(steps, self.total_steps, freezer.costs)

        low, high = 1e-9, 1.0
        if (least := spent(low)) > self.compute:
            raise ValueError(
                f"compute={self.compute:g} cannot be reached: layers freeze one after the other "
                f"until the end, so that even with t0 near 0 the run still spends "
                f"{math.ceil(1000 * least) / 1000} of full training's compute. Ask for at least as "
                "much."
            )
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if spent(middle) <= self.compute else (low, middle)
        self.t0 = low

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Sets every group's learning rate for this step and returns the layers to freeze.

        Args:
            active: the layers that still train, in execution order, the head included; all layers
                at the first call.
            step: the index of the optimizer step about to be taken.
        """
        if not self._names:
            self._start(active)
        self._set_learning_rates(step)
        if not self.freeze:
            return []
        due = [layer for layer in active if self._freeze_steps.get(layer.name, math.inf) <= step]
        for layer in due:
            self._frozen.setdefault(layer.name, step)
        return due

    def is_due(self, step: int) -> bool:
        """Whether a layer's freeze step is reached at ``step`` and it was not frozen before.

        Always true before the first call, when the layers are not known, unless nothing freezes.
        """
        if not self.freeze:
            return False
        return not self._names or any(
            due <= step <= self._frozen.get(name, step) for name, due in self._freeze_steps.items()
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the state from which a run resumes exactly."""
        return {
            "names": list(self._names),
            "num_layers": self._num_layers,
            "layer_of_group": list(self._layer_of_group),
            "base_lrs": list(self._base_lrs),
            "frozen": dict(self._frozen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._layer_of_group = list(state["layer_of_group"])
        self._base_lrs = list(state["base_lrs"])
        self._frozen = dict(state["frozen"])
        self._schedule(state["names"], state.get("num_layers", len(state["names"]) - 1))

    def _start(self, active: Sequence[Layer]) -> None:
        if math.isnan(self.t0):
            raise ValueError(
                "FreezeOut(compute=...) chooses t0 for the layers of a Freezer: create the Freezer "
                "with this policy before its first step."
            )
        # A head is layer L even if it is used first, as with tied embeddings.
        layers = sorted(active, key=lambda layer: layer.is_head)
        groups = self.optimizer.param_groups
        self._layer_of_group = _layer_of_group(groups, layers)
        self._base_lrs = [float(group["lr"]) for group in groups]
        self._schedule([layer.name for layer in layers], sum(not layer.is_head for layer in layers))

    def _schedule(self, names: Sequence[str], num_layers: int) -> None:
        """Computes the schedule of layers that end with the heads."""
        self._names, self._num_layers = list(names), num_layers
        self._freeze_steps = {
            name: freeze_step(self.total_steps, index, num_layers, self.t0, self.how)
            for index, name in enumerate(names[:num_layers])
        }
        ends = [_end(layer, num_layers, self.t0, self.how) for layer in self._layer_of_group]
        self._ends = np.array(ends) * self.total_steps
        self._starts = np.array(self._base_lrs) / (ends if self.scale else 1.0)

    def _set_learning_rates(self, step: int) -> None:
        # For all groups at once, which is faster with hundreds of layers.
        warmed_up = min(1.0, (step + 1) / (self.warmup_steps + 1))
        rates = warmed_up * _annealed(self._starts, self._ends, step)
        for group, rate in zip(self.optimizer.param_groups, rates.tolist(), strict=True):
            group["lr"] = rate


def _layer_of_group(groups: Sequence[dict[str, Any]], layers: Sequence[Layer]) -> list[int]:
    """Returns the index of each group's layer: L for the heads and for groups of no layer."""
    head = sum(not layer.is_head for layer in layers)
    index = {id(param): min(i, head) for i, layer in enumerate(layers) for param in layer.params}
    owners = [{index.get(id(param), head) for param in group["params"]} for group in groups]
    if any(len(owner) > 1 for owner in owners):
        raise ValueError(
            "FreezeOut needs a learning rate per layer, but a parameter group of the optimizer "
            "spans several layers. Build the optimizer from "
            "baselines.freezeout.param_groups(model, layers)."
        )
    return [max(owner, default=head) for owner in owners]
