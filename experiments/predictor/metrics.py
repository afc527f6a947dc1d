"""Metrics of convergence predictors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.predictor.concordance import concordances

BINS = 10


def metrics(
    labels: Sequence[Tensor],
    scores: Sequence[Tensor],
    threshold: float,
    are_probabilities: bool,
    values: Sequence[Tensor] | None = None,
) -> dict[str, float]:
    """Computes the metrics of scores against labels.

    Args:
        labels: for each recorded run (R, L) bool, oldest record first: true where a layer can be
            frozen.
        scores: for each recorded run (R, L); a higher score freezes a layer earlier. Infinite
            scores are allowed, NaN is not.
        threshold: layers with a higher score are frozen.
        are_probabilities: whether the scores are probabilities, for which the calibration error
            is defined.
        values: for each recorded run (R, L) numbers from which the labels were made, the higher,
            the earlier a layer should freeze; by default the labels themselves.

    Returns:
        ``examples``; ``positive_rate``; ``auroc`` and ``average_precision``, NaN if all labels are
        equal; ``within_moment``, ``within_layer`` and ``within_run``, the `concordances` with the
        values; ``calibration_error``, NaN unless the scores are probabilities; ``f1``,
        ``precision`` and ``recall`` at the threshold; and the metrics of `freezing`.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score  # takes a second

    label, score = flattened(labels), flattened(scores)
    truth, finite = label.numpy(), score.nan_to_num(posinf=1e30, neginf=-1e30).numpy()
    both = bool(label.any()) and not label.all()
    frozen = score > threshold
    return {
        "examples": len(label),
        "positive_rate": _mean(label),
        "auroc": float(roc_auc_score(truth, finite)) if both else math.nan,
        "average_precision": float(average_precision_score(truth, finite)) if both else math.nan,
        **concordances(labels if values is None else values, scores),
        "calibration_error": calibration_error(label, score) if are_probabilities else math.nan,
        "f1": float(f1_score(truth, frozen.numpy(), zero_division=0)),
        "precision": _mean(label[frozen]),
        "recall": _mean(frozen[label]),
        **freezing(labels, scores, threshold),
    }


def freezing(
    labels: Sequence[Tensor], scores: Sequence[Tensor], threshold: float
) -> dict[str, float]:
    """Computes the outcome of freezing each layer at the first record above the threshold.

    Args:
        labels: as for `metrics`.
        scores: as for `metrics`.
        threshold: as for `metrics`.

    Returns:
        ``frozen_rightly``, the fraction of frozen layers that were labelled "freeze" at the record
        at which they were frozen, NaN if none is frozen; and ``frozen_time``, the fraction of
        records for which a layer is frozen, mean over all layers.
    """
    rightly, time = [], []
    for label, score in zip(labels, scores, strict=True):
        frozen = (score > threshold).cummax(dim=0).values
        first = frozen.int().argmax(dim=0)
        rightly.append(label.gather(0, first[None])[0][frozen[-1]])
        time.append(frozen.double().mean(dim=0))
    return {"frozen_rightly": _mean(torch.cat(rightly)), "frozen_time": _mean(torch.cat(time))}


def calibration_error(labels: Tensor, probability: Tensor) -> float:
    """Expected calibration error with ten bins of equal width (Guo et al., 2017, Eq. 3).

    NaN without examples.
    """
    if not len(labels):
        return math.nan
    return sum(
        count * abs(mean_probability - rate)
        for count, mean_probability, rate in reliability(labels, probability)
    ) / len(labels)


def reliability(labels: Tensor, probability: Tensor) -> list[tuple[int, float, float]]:
    """Returns each nonempty bin's number of examples, mean probability and rate of "freeze"."""
    bins = (probability * BINS).long().clamp_max(BINS - 1)
    found = [bins == index for index in range(BINS)]
    return [
        (int(inside.sum()), _mean(probability[inside]), _mean(labels[inside]))
        for inside in found
        if inside.any()
    ]


def flattened(parts: Sequence[Tensor]) -> Tensor:
    """Concatenates the records and layers of all recorded runs, (N,)."""
    return torch.cat([part.flatten() for part in parts] or [torch.zeros(0)])


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else math.nan
