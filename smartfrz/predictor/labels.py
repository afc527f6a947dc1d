"""Labels of the training data: when a layer's CKA has stabilised (Section 3.4)."""

from torch import Tensor


def stabilised(cka: Tensor, tolerance: float) -> Tensor:
    """The label: from this record on, the layer's CKA stays within a band.

    Record t of a layer is labelled "freeze" if ``|CKA_s - CKA_t| <= tolerance`` for every later
    record s of the training. The paper says "the CKA value of a layer stabilizes" and leaves the
    rule open. The last record is labelled so whatever it holds, but that a CKA that is not a
    number is never stable.

    Args:
        cka: (R, L), oldest record first.
        tolerance: half the width of the band.

    Returns:
        (R, L) bool.
    """
    highest = cka.flip(0).cummax(0).values.flip(0)
    lowest = cka.flip(0).cummin(0).values.flip(0)
    return (highest - cka <= tolerance) & (cka - lowest <= tolerance)
