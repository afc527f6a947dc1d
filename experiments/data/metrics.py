"""Classification metrics: accuracy, F1 and Matthews correlation."""

from collections.abc import Callable
from functools import partial

from torch import Tensor


def score(predictions: Tensor, labels: Tensor, metrics: tuple[str, ...]) -> dict[str, float]:
    """Computes metrics of predictions.

    Args:
        predictions: predicted classes, (N,).
        labels: true classes, (N,); predictions with a negative label are ignored.
        metrics: ``accuracy``, ``f1`` or ``matthews``.

    Returns:
        The metrics by name, in the given order.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # takes a second

    scores: dict[str, Callable[..., float]] = {
        "accuracy": accuracy_score,
        "f1": partial(f1_score, zero_division=0),
        "matthews": matthews_corrcoef,
    }
    counts = labels >= 0
    found, truth = predictions[counts].cpu().numpy(), labels[counts].cpu().numpy()
    return {name: float(scores[name](truth, found)) for name in metrics}
