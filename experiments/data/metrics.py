"""How good a model is at a task: the task's own metric first."""

from collections.abc import Callable
from functools import partial

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor


def score(predictions: Tensor, labels: Tensor, metrics: tuple[str, ...]) -> dict[str, float]:
    """Measures predictions, (N,), of which those with a negative label don't count."""
    counts = labels >= 0
    found, truth = predictions[counts].cpu().numpy(), labels[counts].cpu().numpy()
    return {name: float(_SCORES[name](truth, found)) for name in metrics}


_SCORES: dict[str, Callable[..., float]] = {
    "accuracy": accuracy_score,
    "f1": partial(f1_score, zero_division=0),
    "matthews": matthews_corrcoef,
}
