"""How good a predictor is on trainings that it has not learned from, beside a rule of thumb."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smartfrz.labeller import History, stabilised
from smartfrz.predictor import AttentionPredictor


def score(
    predictor: AttentionPredictor, histories: Sequence[History], tolerance: float
) -> dict[str, float | None]:
    """Compares what the predictor says about recorded trainings with their labels.

    The rule of thumb learns nothing: the less a layer moved last, the sooner it is frozen.

    Args:
        predictor: the trained predictor.
        histories: the recorded trainings.
        tolerance: of the label, see :func:`smartfrz.labeller.stabilised`.

    Returns:
        The number of ``examples``; the fraction of them labelled "freeze" (``positive_rate``) and
        judged right (``accuracy``); the area under the ROC curve of the predictor (``auroc``) and
        of the rule (``auroc_last_displacement``), ``None`` where all labels are equal.
    """
    judged = [judge(predictor, history, tolerance) for history in histories]
    labels, probability, moved = (torch.cat(part) for part in zip(*judged, strict=True))
    return {
        "examples": len(labels),
        "positive_rate": labels.double().mean().item(),
        "accuracy": ((probability > 0.5) == labels).double().mean().item(),
        "auroc": auroc(labels, probability),
        "auroc_last_displacement": auroc(labels, -moved),
    }


def judge(
    predictor: AttentionPredictor, history: History, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each layer at each of the R records but the first, at which nothing has moved yet.

    Returns:
        The labels, bool; the predictor's probabilities; and the last relative displacements,
        ``|w_T - w_(T-1)| / |w_T|``. Each of length (R - 1) L.
    """
    labels = stabilised(history.cka, tolerance)[1:]
    by_layer = history.weights.transpose(0, 1)
    ends = range(2, len(history.weights) + 1)
    probability = torch.stack([predictor.freeze_probability(by_layer[:, :end]) for end in ends])
    moved = history.weights.diff(dim=0).norm(dim=2) / history.weights[1:].norm(dim=2)
    return labels.flatten(), probability.flatten(), moved.flatten()


def auroc(labels: Tensor, scores: Tensor) -> float | None:
    """How often a positive example scores higher than a negative one; ties count half.

    Args:
        labels: (N,) bool.
        scores: (N,).

    Returns:
        The area under the ROC curve; ``None`` where there are no positive or no negative examples.
    """
    if labels.all() or not labels.any():
        return None
    positive, negative = scores[labels][:, None], scores[~labels]
    higher, tied = positive > negative, positive == negative
    return ((higher.sum() + tied.sum() / 2) / higher.numel()).item()
