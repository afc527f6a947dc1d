"""Encodings of weight records as predictor inputs: raw weights or displacements."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smartfrz.predictor.history import PATH, PREVIOUS, kept_before

_SMALLEST, _LARGEST = 1e-5, 1e5


@dataclass(frozen=True)
class Encoding:
    """An encoding of weight records as inputs of the predictor.

    It is causal: a record is encoded once, when it is made, from itself and earlier records. Later
    records do not change it.

    Attributes:
        encode: maps records (..., size) and earlier weights of the same shape to (..., size)
            inputs.
        fractions: fractions of the elapsed time from which the earlier weights are taken; see
            `WeightHistory.earlier`. Empty if records are not compared with earlier ones.
        cumulative: whether the encoding of a layer also depends on all preceding layers.
        of_outputs: whether the records are not weights but `OutputDrift`.
    """

    encode: Callable[[Tensor, Tensor], Tensor]
    fractions: tuple[float, ...] = ()
    cumulative: bool = False
    of_outputs: bool = False

    @property
    def compares(self) -> bool:
        """Whether records are compared with earlier ones; the first is then uninformative."""
        return bool(self.fractions) or self.of_outputs

    def __call__(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Encodes all records of a history.

        Args:
            history: (L, T, size) tailored weights, oldest first, T >= 1.
            valid: (L, T) bool, whether each record is present, by default all; at least one per
                layer. `fill_gaps` replaces missing records.

        Returns:
            (L, T, size).
        """
        if valid is not None:
            history = fill_gaps(history, valid)
        return self.encode(history, self._earlier(history))

    def _earlier(self, history: Tensor) -> Tensor:
        """Returns the value of `WeightHistory.earlier` at every record."""
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
    """Replaces each missing record by the preceding one, or else by the first one present.

    Args:
        history: (L, T, size); the contents of missing records are ignored.
        valid: (L, T) bool, whether each record is present; at least one per layer.

    Returns:
        (L, T, size).
    """
    records = torch.arange(history.shape[1], device=history.device)
    first = valid.int().argmax(dim=1, keepdim=True)
    present = torch.where(valid, records, first).cummax(dim=1).values
    return history[torch.arange(len(history), device=history.device)[:, None], present]


def raw(weights: Tensor, earlier: Tensor) -> Tensor:
    """Returns the weights unchanged, the paper's input (Eq. 1)."""
    return weights


def standardised(weights: Tensor, earlier: Tensor) -> Tensor:
    """Returns the weights with mean 0 and standard deviation 1, independent of their scale."""
    centred = weights - weights.mean(dim=-1, keepdim=True)
    return centred / _rms(centred)


def displacement(weights: Tensor, earlier: Tensor) -> Tensor:
    """Returns the change since the previous record, in hundredths of the weights' RMS."""
    return 100 * (weights - earlier) / _rms(weights)


def log_displacement(weights: Tensor, earlier: Tensor) -> Tensor:
    """Computes logarithms of displacements since seven earlier times, and of path lengths.

    The seven times range from the first record to one sixteenth of the elapsed time ago. An eighth
    of the sampled weights is used for each time, as distances ``|w_t - w_s|``, and the last eighth
    for path lengths since the first record, ``sum |w_j - w_(j - 1)|``. The values are divided by
    the root mean square (RMS) of ``w_t``, sorted, and converted to logarithms of order 1. The
    encoding therefore depends little on the scale of the weights, the order in which they were
    sampled and the recording interval, and it is comparable between architectures. Not in the
    paper, which uses the weights themselves.

    Args:
        weights: (..., size) records.
        earlier: (..., size) earlier weights, each at the time that it is compared with.

    Returns:
        (..., size): for each time its sorted values, ``log10(ratio) + 2.5`` with the ratio clamped
        to [1e-5, 1e5]. Finite for finite weights.
    """
    return _log(_sorted_ratios(weights, earlier))


def drift(weights: Tensor, earlier: Tensor) -> Tensor:
    """Computes a layer's `log_displacement`, combined with that of all preceding layers.

    A layer's output changes with its own weights and with its input, hence with the weights of all
    preceding layers, and so does the CKA from which the labels are derived. The sorted values of
    `log_displacement` are therefore accumulated over the layers, as the root of the sum of squares,
    before the logarithm. A frozen layer no longer moves, but its earlier displacements still count;
    without them, the layers behind it would appear to have converged. Not in the paper.

    Args:
        weights: (L, ..., size) records of L layers, in execution order.
        earlier: (L, ..., size) earlier weights, as in `log_displacement`.

    Returns:
        (L, ..., size), as `log_displacement`.
    """
    squares = _sorted_ratios(weights, earlier).square().movedim(0, -1).contiguous()
    return _log(squares.cumsum(dim=-1).movedim(-1, 0).sqrt())  # contiguous, twice as fast


def _sorted_ratios(weights: Tensor, earlier: Tensor) -> Tensor:
    """Returns relative displacements, grouped by earlier time and ascending within each group."""
    ratio = (weights - earlier).abs() / _rms(weights)
    moments = len(_FRACTIONS)
    return torch.cat([_sorted(ratio[..., i::moments]) for i in range(moments)], dim=-1)


def _log(ratio: Tensor) -> Tensor:
    return ratio.clamp(_SMALLEST, _LARGEST).log10() + 2.5


def _rms(weights: Tensor) -> Tensor:
    """Computes the root mean square over the last dimension, without overflow and never zero."""
    tiny = torch.finfo(weights.dtype).tiny
    largest = weights.abs().amax(-1, keepdim=True).clamp_min(tiny)
    return (largest * (weights / largest).square().mean(-1, keepdim=True).sqrt()).clamp_min(tiny)


def _sorted(values: Tensor) -> Tensor:
    """Sorts the last dimension, NaNs last."""
    if values.device.type == "cpu" and not values.requires_grad:
        # Thirty times as fast as PyTorch's sort, which would take longer than Eqs. 1-4.
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
    "outputs": Encoding(raw, of_outputs=True),
}
"""The encodings by name; ``raw`` is that of the paper, and ``outputs`` that of `OutputDrift`."""
