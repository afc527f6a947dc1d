"""Labels of the predictor's training data, from the stabilisation of CKA (Section 3.4)."""

from torch import Tensor


def stabilised(cka: Tensor, tolerance: float) -> Tensor:
    """Labels the records from which on a layer's CKA stays within a band.

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
