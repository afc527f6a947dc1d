"""Labels of the predictor's training data: when a layer can be frozen."""

from collections.abc import Callable

import torch
from torch import Tensor

from smartfrz.predictor.recorded import History


def stabilised(cka: Tensor, tolerance: float) -> Tensor:
    """Labels the records from which on a layer's CKA stays within a band (Section 3.4).

    Record t of a layer is labelled "freeze" if ``|CKA_s - CKA_t| <= tolerance`` for every later
    record s of the run. The paper's rule, "the CKA value of a layer stabilizes", leaves the details
    open. The last record is always labelled "freeze", unless its CKA is NaN: NaN is never stable.

    Args:
        cka: (R, L) CKA, oldest record first.
        tolerance: half the width of the band.

    Returns:
        (R, L) bool, whether the label is "freeze".
    """
    highest = cka.flip(0).cummax(0).values.flip(0)
    lowest = cka.flip(0).cummin(0).values.flip(0)
    return (highest - cka <= tolerance) & (cka - lowest <= tolerance)


def future_contribution(contribution: Tensor) -> Tensor:
    """Sums what each layer still contributes after each record: what freezing it there loses.

    Not in the paper.

    Args:
        contribution: (R, L), see `History`, oldest record first.

    Returns:
        (R, L) float64, zero at the last record: steps after it are not recorded.
    """
    left = contribution.double().flip(0).cumsum(dim=0).flip(0)
    return torch.cat([left[1:], torch.zeros_like(left[:1])])


def exhausted(contribution: Tensor, tolerance: float) -> Tensor:
    """Labels the records after which a layer contributes next to nothing.

    Record t of a layer is labelled "freeze" if the layer's `future_contribution` is at most
    ``tolerance`` times what a layer contributes in the whole run, mean over layers, or at most
    zero. Not in the paper.

    Args:
        contribution: (R, L), see `History`, oldest record first.
        tolerance: fraction of an average layer's contribution.

    Returns:
        (R, L) bool, whether the label is "freeze".
    """
    average = contribution.double().sum() / contribution.shape[1]
    return future_contribution(contribution) <= tolerance * average.clamp_min(0)


LABELS: dict[str, Callable[[History, float], Tensor]] = {
    "cka": lambda history, tolerance: stabilised(history.cka, tolerance),
    "contribution": lambda history, tolerance: exhausted(history.probe_contribution, tolerance),
}
"""Labels (R, L) of a history for a tolerance, by name; ``cka`` is that of the paper."""
