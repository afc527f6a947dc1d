"""What the predictor sees of a weight record: the weights themselves, or how far they moved."""

from collections.abc import Callable

import torch
from torch import Tensor

_SMALLEST, _LARGEST = 1e-8, 1e8


def raw(history: Tensor, valid: Tensor) -> Tensor:
    """The tailored weights as they are: the input of Eq. 1 in the paper (Sec. 3.3).

    Args:
        history: (L, T, size) tailored weights, oldest first.
        valid: (L, T) bool, unused here.

    Returns:
        ``history``, (L, T, size).
    """
    return history


def displacement(history: Tensor, valid: Tensor) -> Tensor:
    """How far each record is from the one before it and from the newest one.

    A record becomes two sorted halves: the relative steps ``|w_j - w_(j-1)| / rms(w_T)`` and the
    relative distances ``|w_T - w_j| / rms(w_T)``, every other order statistic of each, as
    logarithms of order 1. So neither the scale of the weights nor the order in which they were
    sampled matters, and layers of any architecture look alike. Not in the paper, which feeds the
    weights themselves (:func:`raw`).

    A record whose predecessor is not valid, as the first of the window, has steps of zero.

    Args:
        history: (L, T, size) tailored weights, oldest first, the newest one valid.
        valid: (L, T) bool; what comes out for records that are not valid is of no meaning.

    Returns:
        (L, T, size): size/2 steps, then size/2 distances, each ``(log10(ratio) + 4) / 2`` with the
        ratio clamped to [1e-8, 1e8]. Finite for any finite history.
    """
    newest = history[:, -1:]
    both_valid = valid[:, 1:] & valid[:, :-1]
    steps = torch.zeros_like(history)
    steps[:, 1:] = history.diff(dim=1).abs().masked_fill(~both_valid[..., None], 0)
    distances = (newest - history).abs()
    rms = _rms(newest)
    return torch.cat(
        [_log(_sorted(steps)[..., ::2] / rms), _log(_sorted(distances)[..., 1::2] / rms)], dim=-1
    )


def _rms(weights: Tensor) -> Tensor:
    """Root mean square over the last dimension, safe from overflow and never zero."""
    tiny = torch.finfo(weights.dtype).tiny
    largest = weights.abs().amax(-1, keepdim=True).clamp_min(tiny)
    return (largest * (weights / largest).square().mean(-1, keepdim=True).sqrt()).clamp_min(tiny)


def _sorted(values: Tensor) -> Tensor:
    return values.sort(dim=-1).values


def _log(ratio: Tensor) -> Tensor:
    return (ratio.clamp(_SMALLEST, _LARGEST).log10() + 4) / 2


ENCODINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "raw": raw,
    "displacement": displacement,
}
"""By name: what turns (L, T, size) tailored weights into (L, T, size) inputs of the predictor."""

MIN_RECORDS = {"raw": 1, "displacement": 2}
"""How many valid records a layer needs before its encoding says anything."""
