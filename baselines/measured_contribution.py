"""Freezing by measured contribution, a control without a trained predictor. Not in the paper."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from smartfrz import Freezer, Layer
from smartfrz.policies import BudgetPlan, checked_interval
from smartfrz.predictor import sample_indices
from smartfrz.sharding import local


class MeasuredContribution:
    """Policy: freezes the front if it contributes less to learning than its share of the FLOPs.

    A layer's contribution to a step is the fall of the loss on the next batch that the change of
    its weights explains, to first order: minus the inner product of that change with the next
    batch's gradient. (With the gradient of the step's own batch, the fall of the loss on that batch
    alone would dominate.) It is estimated at each step from random weights of the layer, without
    bias, and without waiting for a GPU between decisions.

    Every ``interval`` steps, each front of the layers that still train has a share of what the
    body, all layers but the heads, has contributed since the last decision, and a share of the
    FLOPs that freezing all of the body would save. The front whose share of FLOPs exceeds its share
    of contribution by most freezes: the layers behind it contribute more per FLOP than the average.
    Fronts are compared because scattered layers save little. None freezes if the body has not
    contributed, as on a plateau.

    Otherwise the run follows the plan of ``SmartFRZ`` with a budget, see `BudgetPlan`, and no more
    layers freeze early than leave no budget unspent.

    With a `GradScaler`, gradients should be unscaled before ``Freezer.step``. Of sharded
    parameters, each process measures its own part.

    Args:
        interval: steps between two decisions.
        budget: the fraction of full training's compute that the run spends, in (0, 1].
        total_steps: optimizer steps of the whole run. It may be changed later: the plan follows it.
        size: number of sampled weights per layer.

    Raises:
        ValueError: ``interval`` is less than 1 or, when the freezer is made, the budget is out of
            reach.
    """

    def __init__(self, interval: int, budget: float, total_steps: int, size: int = 1024) -> None:
        self.interval = checked_interval(interval)
        self.plan = BudgetPlan(budget, total_steps)
        self.size = size
        self._indices: dict[str, list[Tensor]] = {}
        self._weights: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, which the plan follows."""
        return self.plan.total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int) -> None:
        self.plan.total_steps = total_steps

    def attach(self, freezer: Freezer) -> None:
        """Plans how to spend the budget."""
        self._freezer = freezer
        self.plan.attach(freezer)

    def is_due(self, step: int) -> bool:
        """Whether layers may freeze or thaw at this step."""
        return step % self.interval == 0 or self.plan.is_due(step)

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that the plan thaws."""
        return self.plan.layers_to_thaw(frozen, step)

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Measures all layers, and returns those that freeze."""
        self._measure(active)
        chosen: list[Layer] = []
        if step % self.interval == 0 and not self.plan.trains_head_alone(step):
            chosen = self._least_useful([layer for layer in active if not layer.is_head])
            self._sums = {}
        return self.plan.layers_to_freeze(active, step, chosen)

    def contributions(self) -> dict[str, float]:
        """Returns what each layer has contributed since the last decision, the heads included."""
        return {name: float(total) for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns the plan, the contributions, and the weights to compare the next step with."""
        return {
            "plan": self.plan.state_dict(),
            "weights": dict(self._weights),
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self.plan.load_state_dict(state["plan"])
        self._weights, self._sums = dict(state["weights"]), dict(state["sums"])

    def _least_useful(self, body: Sequence[Layer]) -> list[Layer]:
        """Returns the front that contributes least for its FLOPs."""
        frozen, costs = [*self._freezer.frozen], self._freezer.costs
        names = [layer.name for layer in body]
        totals = self.contributions()
        contributed = [0.0, *accumulate(totals.get(name, 0.0) for name in names)]
        saved = [costs(frozen) - costs([*frozen, *names[:i]]) for i in range(len(body) + 1)]
        if contributed[-1] <= 0 or saved[-1] <= 0:
            return []
        shares = zip(saved, contributed, strict=True)
        gains = [flops / saved[-1] - fall / contributed[-1] for flops, fall in shares]
        return list(body[: gains.index(max(gains))])

    @torch.no_grad()
    def _measure(self, layers: Sequence[Layer]) -> None:
        """Adds the contributions to the previous step, which the new gradients reveal."""
        before, self._weights = self._weights, {}
        for layer in layers:
            weights = self._weights[layer.name] = self._sampled(layer, layer.params)
            if layer.name not in before:
                continue
            gradient = self._sampled(layer, [_gradient(param) for param in layer.params])
            fall = -gradient.dot(weights - before[layer.name].to(weights.device))
            # Gradients that overflow, as with a GradScaler, measure nothing.
            fall = torch.nan_to_num(fall, nan=0.0, posinf=0.0, neginf=0.0)
            total = self._sums.get(layer.name, torch.zeros_like(fall))
            self._sums[layer.name] = total.to(fall.device) + fall

    def _sampled(self, layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
        """Returns samples of the layer's parameters, or of their gradients.

        They are scaled so that the product of two is an unbiased estimate of the whole product.
        """
        parts = [local(each) for each in tensors]
        parts = [torch.view_as_real(each) if each.is_complex() else each for each in parts]
        ends = [0, *accumulate(part.numel() for part in parts)]
        if layer.name not in self._indices:
            chosen = sample_indices(layer.name, ends[-1], min(self.size, ends[-1]))
            self._indices[layer.name] = [
                (chosen[(chosen >= start) & (chosen < end)] - start).to(part.device)
                for part, (start, end) in zip(parts, pairwise(ends), strict=True)
            ]
        indices = self._indices[layer.name]
        values = [part.take(each) for part, each in zip(parts, indices, strict=True)]
        return torch.cat(values).float() * math.sqrt(ends[-1] / max(1, min(self.size, ends[-1])))


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param)
    return param.grad.to_dense() if param.grad.is_sparse else param.grad
