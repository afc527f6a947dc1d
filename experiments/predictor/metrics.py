"""How good scores are at telling which layers are done: the metrics of all evidence."""

import math
from collections.abc import Sequence

import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

BINS = 10


def metrics(
    labels: Sequence[Tensor], scores: Sequence[Tensor], threshold: float, are_probabilities: bool
) -> dict[str, float]:
    """Compares scores with labels.

    Args:
        labels: of each training (R, L) bool, oldest record first: true where a layer can be frozen.
        scores: (R, L) each, the higher the sooner; infinite ones are allowed, but not NaN.
        threshold: freeze above it.
        are_probabilities: whether a calibration error makes sense.

    Returns:
        ``examples``; ``positive_rate``; ``auroc`` and ``average_precision``, NaN where all labels
        are equal; ``calibration_error``, NaN unless the scores are probabilities; at the threshold
        ``f1``, ``precision`` and ``recall``; and what `freezing` finds.
    """
    label, score = flattened(labels), flattened(scores)
    truth, finite = label.numpy(), score.nan_to_num(posinf=1e30, neginf=-1e30).numpy()
    both = bool(label.any()) and not label.all()
    frozen = score > threshold
    return {
        "examples": len(label),
        "positive_rate": _mean(label),
        "auroc": float(roc_auc_score(truth, finite)) if both else math.nan,
        "average_precision": float(average_precision_score(truth, finite)) if both else math.nan,
        "calibration_error": calibration_error(label, score) if are_probabilities else math.nan,
        "f1": float(f1_score(truth, frozen.numpy(), zero_division=0)),
        "precision": _mean(label[frozen]),
        "recall": _mean(frozen[label]),
        **freezing(labels, scores, threshold),
    }


def freezing(
    labels: Sequence[Tensor], scores: Sequence[Tensor], threshold: float
) -> dict[str, float]:
    """What would come of freezing each layer at the first record whose score is high enough.

    Args:
        labels: as for `metrics`.
        scores: likewise.
        threshold: likewise.

    Returns:
        ``frozen_rightly``, the part of the layers frozen whose label was "freeze" then, NaN if none
        is frozen; and ``frozen_time``, the part of the time that a layer is frozen, the mean over
        all.
    """
    rightly, time = [], []
    for label, score in zip(labels, scores, strict=True):
        frozen = (score > threshold).cummax(dim=0).values
        first = frozen.int().argmax(dim=0)
        rightly.append(label.gather(0, first[None])[0][frozen[-1]])
        time.append(frozen.double().mean(dim=0))
    return {"frozen_rightly": _mean(torch.cat(rightly)), "frozen_time": _mean(torch.cat(time))}


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


def flattened(parts: Sequence[Tensor]) -> Tensor:
    """All records and layers of all trainings, (N,)."""
    return torch.cat([part.flatten() for part in parts])


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else math.nan
