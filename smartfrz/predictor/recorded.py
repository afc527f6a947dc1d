"""The recording of a run, from which predictors are trained and judged."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

SUMS = ("contribution", "own_contribution", "path", "gradient_square", "gradient_product", "lr")
"""The attributes of a `History` that are sums over single steps."""


@dataclass(frozen=True)
class History:
    """The recording of one run: R records of L layers, all but the heads.

    Unless stated otherwise, sums are over the optimizer steps since the previous record and over
    all weights of a layer. No step precedes the first record.

    Attributes:
        weights: (R, L, size) tailored weights, oldest first.
        cka: (R, L) CKA between each layer's output and its output at the last record of the run.
        cka_between: (R, R, L) CKA between each layer's outputs at any two records.
        gradient: (R, L) L1 norm of the sum of each layer's gradients over the steps since the
            previous record. The record's own step is included; the first record has no other.
        gradient_square: (R, L) sum of the squared norms of the gradients over the same steps.
        gradient_product: (R, L) sum of the dot products of each of these gradients with that of the
            step before it.
        contribution: (R, L) decrease of the loss by the layer's steps, to first order: minus the
            sum of the dot products of each step with the gradient of the *next* batch, at the
            weights after the step.
        own_contribution: (R, L) the same with the gradient of the step's own batch, at the weights
            before the step. The step follows this gradient, noise included, so that the sum is too
            high; `contribution` is too low where the loss is curved along the step.
        probe_contribution: (R, L) decrease of the loss on held-out examples: minus the dot product
            of the sum of the steps with the mean of this loss's gradients before and after them,
            with the batch statistics of batch norms. It has neither of these biases, nor that of
            `contribution` where training examples are drawn without replacement: the next batch
            then lacks what the last ones had.
        path: (R, L) sum of the squared norms of the steps.
        displacement: (R, L) squared norm of the sum of the steps.
        lr: (R, L) sum of the learning rates of the steps.
        loss: (R,) mean training loss over the steps of ``gradient``.
        progress: (R,) fraction of the run's steps that precede the record.
        cost: (L,) fraction of full training's compute that freezing this layer alone saves.
        numel: (L,) number of the layer's weights.
        is_pretrained: bool scalar, whether the run started from pretrained weights.
    """

    weights: Tensor
    cka: Tensor
    cka_between: Tensor
    gradient: Tensor
    gradient_square: Tensor
    gradient_product: Tensor
    contribution: Tensor
    own_contribution: Tensor
    probe_contribution: Tensor
    path: Tensor
    displacement: Tensor
    lr: Tensor
    loss: Tensor
    progress: Tensor
    cost: Tensor
    numel: Tensor
    is_pretrained: Tensor

    @property
    def cka_to_previous(self) -> Tensor:
        """(R, L) CKA between each layer's output and its output at the previous record.

        1 at the first record, which is compared with itself.
        """
        records = torch.arange(len(self.cka_between))
        return self.cka_between[records, (records - 1).clamp_min(0)]

    @property
    def cka_to_first(self) -> Tensor:
        """(R, L) CKA between each layer's output and its output at the first record."""
        return self.cka_between[:, 0]


def thinned(history: History, stride: int) -> History:
    """Returns every ``stride``-th record of a history: what recording less often gives.

    There are two exceptions. `History.gradient` still refers to the original, shorter intervals.
    And `History.displacement` is known for these only: how much of the steps cancels out between
    them is estimated from the tailored weights.
    """
    if stride == 1:
        return history
    sums = (*SUMS, "probe_contribution")
    summed = {name: _summed(getattr(history, name), stride) for name in sums}
    loss = _summed(history.loss, stride) / stride
    loss[0] = history.loss[0]  # of a single step
    weights = history.weights[::stride]
    apart = _summed(_squared_steps(history.weights), stride)
    together = _squared_steps(weights) / apart.clamp_min(torch.finfo(apart.dtype).tiny)
    return replace(
        history,
        **summed,
        weights=weights,
        cka=history.cka[::stride],
        cka_between=history.cka_between[::stride, ::stride],
        gradient=history.gradient[::stride],
        displacement=_summed(history.displacement, stride) * together,
        loss=loss,
        progress=history.progress[::stride],
    )


def _summed(values: Tensor, stride: int) -> Tensor:
    """Sums values since the previous record over those since the previous kept record."""
    sums = values.double().cumsum(dim=0)[::stride]
    return sums.diff(dim=0, prepend=torch.zeros_like(sums[:1])).to(values.dtype)


def _squared_steps(weights: Tensor) -> Tensor:
    """Computes the squared distance of each record to the previous one, (R, L)."""
    return weights.diff(dim=0, prepend=weights[:1]).square().sum(dim=2)
