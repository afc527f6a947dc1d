"""How good scores are at telling which layers are done: the metrics of all evidence."""

import math

from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

BINS = 10


def metrics(
    labels: Tensor, scores: Tensor, threshold: float, are_probabilities: bool
) -> dict[str, float]:
    """Compares scores with labels.

    Args:
        labels: (N,) bool, true where a layer can be frozen.
        scores: (N,), the higher the sooner; infinite ones are allowed, but not NaN.
        threshold: freeze above it.
        are_probabilities: whether a calibration error makes sense.

    Returns:
        ``examples``; ``positive_rate``; ``auroc`` and ``average_precision``, NaN where all labels
        are equal; ``calibration_error``, NaN unless the scores are probabilities; and ``f1``,
        ``precision`` and ``recall`` at the threshold.
    """
    truth, finite = labels.numpy(), scores.nan_to_num(posinf=1e30, neginf=-1e30).numpy()
    both = bool(labels.any()) and not labels.all()
    frozen = scores > threshold
    return {
        "examples": len(labels),
        "positive_rate": labels.double().mean().item(),
        "auroc": float(roc_auc_score(truth, finite)) if both else math.nan,
        "average_precision": float(average_precision_score(truth, finite)) if both else math.nan,
        "calibration_error": calibration_error(labels, scores) if are_probabilities else math.nan,
        "f1": float(f1_score(truth, frozen.numpy(), zero_division=0)),
        "precision": _mean(labels[frozen]),
        "recall": _mean(frozen[labels]),
    }


def calibration_error(labels: Tensor, probability: Tensor) -> float:
    """Expected calibration error with ten bins of equal width (Guo et al., 2017, Eq. 3)."""
    return sum(
        count * abs(mean_probability - rate)
        for count, mean_probability, rate in reliability(labels, probability)
    ) / len(labels)


def reliability(labels: Tensor, probability: Tensor) -> list[tuple[int, float, float]]:
    """Of each bin that holds examples: their number, mean probability, and rate of "freeze"."""
    bins = (probability * BINS).long().clamp_max(BINS - 1)
    found = [bins == index for index in range(BINS)]
    return [
        (int(inside.sum()), _mean(probability[inside]), _mean(labels[inside]))
        for inside in found
        if inside.any()
    ]


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else math.nan
