"""What the predictor sees of a weight record: the weights themselves, or how far they moved."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smartfrz.predictor.history import PATH, PREVIOUS, kept_before

_SMALLEST, _LARGEST = 1e-5, 1e5


@dataclass(frozen=True)
class Encoding:
    """How a record of weights becomes an input of the predictor.

    It is causal: a record is encoded once, when it is made, from itself and earlier ones, and what
    comes later makes no difference to it.

    Attributes:
        encode: maps records (..., size), and as many earlier weights, to (..., size) inputs.
        fractions: of the time so far, at which the earlier weights are taken that the record is
            compared with; see `WeightHistory.earlier`.
        cumulative: whether what it says of a layer is about the layers in front of it as well.
    """

    encode: Callable[[Tensor, Tensor], Tensor]
    fractions: tuple[float, ...] = ()
    cumulative: bool = False

    @property
    def compares(self) -> bool:
        """Whether it compares a record with earlier ones, so that the first one tells nothing."""
        return bool(self.fractions)

    def __call__(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Encodes all records of a history.

        Args:
            history: (L, T, size) tailored weights, oldest first, T >= 1.
            valid: (L, T) bool, which records there are, by default all; at least one of each
                layer. See `fill_gaps` for the others.

        Returns:
            (L, T, size).
        """
        if valid is not None:
            history = fill_gaps(history, valid)
        return self.encode(history, self._earlier(history))

    def _earlier(self, history: Tensor) -> Tensor:
        """What `WeightHistory.earlier` would be at every record."""
        earlier = torch.zeros_like(history)
        for i, fraction in enumerate(self.fractions):
            part = history[..., i :: len(self.fractions)]
            if fraction == PATH:
                steps = part.diff(dim=1, prepend=part[:, :1]).abs()
                then = part - steps.cumsum(dim=1)
            else:
                records = range(history.shape[1])
                then = part[:, [kept_before(record, fraction) for record in records]]
            earlier[..., i :: len(self.fractions)] = then
        return earlier


def fill_gaps(history: Tensor, valid: Tensor) -> Tensor:
    """Takes a missing record for a repetition of the one before it, or of the first one.

    Args:
        history: (L, T, size); what stands in missing records makes no difference.
        valid: (L, T) bool, which records there are; at least one of each layer.

    Returns:
        (L, T, size).
    """
    records = torch.arange(history.shape[1], device=history.device)
    first = valid.int().argmax(dim=1, keepdim=True)
    present = torch.where(valid, records, first).cummax(dim=1).values
    return history[torch.arange(len(history), device=history.device)[:, None], present]


def raw(weights: Tensor, earlier: Tensor) -> Tensor:
    """The weights themselves: the paper's input (Eq. 1)."""
    return weights


def standardised(weights: Tensor, earlier: Tensor) -> Tensor:
    """The weights with mean 0 and standard deviation 1: whatever their scale."""
    centred = weights - weights.mean(dim=-1, keepdim=True)
    return centred / _rms(centred)


def displacement(weights: Tensor, earlier: Tensor) -> Tensor:
    """The last step, in hundredths of the weights' root mean square."""
    return 100 * (weights - earlier) / _rms(weights)


def log_displacement(weights: Tensor, earlier: Tensor) -> Tensor:
    """How far the weights moved since seven moments of the training so far, and along what path.

    An eighth of the sampled weights tells of each moment, from the first record to a sixteenth of
    the time ago: their distances ``|w_t - w_s|``; the last eighth tells how long the path was
    since the first record, ``sum |w_j - w_(j - 1)|``; relative to the root mean square of ``w_t``,
    sorted, as logarithms of order 1. So neither the scale of the weights, nor the order in which
    they were sampled, nor how often they were recorded matters much, and layers of any
    architecture look alike. Not in the paper, which feeds the weights themselves.

    Args:
        weights: (..., size) records.
        earlier: (..., size), each weight as it was at its moment.

    Returns:
        (..., size): for each moment its sorted values, ``log10(ratio) + 2.5`` with the ratio
        clamped to [1e-5, 1e5]. Finite for finite weights.
    """
    return _log(_sorted_ratios(weights, earlier))


def drift(weights: Tensor, earlier: Tensor) -> Tensor:
    """How far a layer's features can have drifted: its displacement, and that of all before it.

    A layer's output changes with its own weights and with its input, so with the weights of every
    layer in front of it: so does the CKA that the labels are made of. What `log_displacement`
    sorts is therefore accumulated over the layers, as the root of the sum of squares, before the
    logarithm. A layer that is frozen moves no more, but how far it moved before stays in view: who
    forgot it would take the layers behind for done as well. Not in the paper.

    Args:
        weights: (L, ..., size) records of L layers, in execution order.
        earlier: (L, ..., size), each weight as it was at its moment.

    Returns:
        (L, ..., size), as `log_displacement`.
    """
    squares = _sorted_ratios(weights, earlier).square().movedim(0, -1).contiguous()
    return _log(squares.cumsum(dim=-1).movedim(-1, 0).sqrt())  # along memory, twice as fast


def _sorted_ratios(weights: Tensor, earlier: Tensor) -> Tensor:
    """Relative displacements, those since the same moment side by side and in ascending order."""
    ratio = (weights - earlier).abs() / _rms(weights)
    moments = len(_FRACTIONS)
    return torch.cat([_sorted(ratio[..., i::moments]) for i in range(moments)], dim=-1)


def _log(ratio: Tensor) -> Tensor:
    return ratio.clamp(_SMALLEST, _LARGEST).log10() + 2.5


def _rms(weights: Tensor) -> Tensor:
    """Root mean square over the last dimension, safe from overflow and never zero."""
    tiny = torch.finfo(weights.dtype).tiny
    largest = weights.abs().amax(-1, keepdim=True).clamp_min(tiny)
    return (largest * (weights / largest).square().mean(-1, keepdim=True).sqrt()).clamp_min(tiny)


def _sorted(values: Tensor) -> Tensor:
    """Sorts the last dimension, NaNs last."""
    if values.device.type == "cpu" and not values.requires_grad:
        # Thirty times as fast as PyTorch's own, which would take longer than Eqs. 1-4.
        values = values.clone(memory_format=torch.contiguous_format)
        values.numpy().sort(axis=-1)
        return values
    return values.sort(dim=-1).values


_FRACTIONS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16, PATH)

ENCODINGS = {
    "raw": Encoding(raw),
    "standardised": Encoding(standardised),
    "displacement": Encoding(displacement, fractions=(PREVIOUS,)),
    "log_displacement": Encoding(log_displacement, fractions=_FRACTIONS),
    "drift": Encoding(drift, fractions=_FRACTIONS, cumulative=True),
}
"""By name; ``raw`` is the paper's."""
