"""Baseline predictors: rules without training, and logistic regressions."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from smartfrz.predictor import History, kept_before

_LAGS = (1, 2, 3, 5, 8, 12)
_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
_SMALLEST = 1e-8


def last_displacement(history: History) -> Tensor:
    """Returns the negated displacement since the previous record, relative to the norm, (R, L)."""
    return -_step_norms(history.weights) / _norms(history.weights)


def gradient_norm_change(history: History) -> Tensor:
    """Returns the negated relative change of the summed gradient's norm, (R, L).

    This is AutoFreeze's criterion, with gradients summed over the steps between two records, which
    are fewer than AutoFreeze's quarter of an epoch.
    """
    previous = history.gradient.roll(1, dims=0)
    change = (previous - history.gradient).abs() / previous.clamp_min(_SMALLEST)
    return -change.index_fill(0, torch.tensor([0]), torch.inf)


def progress(history: History) -> Tensor:
    """Returns the progress through the schedule, from 0 to 1, for every layer, (R, L)."""
    records, layers = history.cka.shape
    return torch.linspace(0, 1, records)[:, None].expand(records, layers)


def depth(history: History) -> Tensor:
    """Returns the layer's position, from 1 at the input to 0, at every record, (R, L)."""
    records, layers = history.cka.shape
    return torch.linspace(1, 0, layers).expand(records, layers)


RULES: dict[str, Callable[[History], Tensor]] = {
    "last displacement": last_displacement,
    "gradient norm change": gradient_norm_change,
    "progress": progress,
    "depth": depth,
}
"""Scores (R, L) without training, by name; a higher score freezes a layer earlier."""


def hand_made_features(history: History) -> Tensor:
    """Computes sixteen features of each record of each layer.

    The features are the logarithms of the displacement over 1, 2, 3, 5, 8 and 12 records, relative
    to the norm; the change of the first of these over 5 and 10 records; the cosine between the last
    two steps, and its mean over five records; and the logarithms of six quantiles of the last
    step's absolute elements, relative to the root mean square of the weights.

    Args:
        history: R records of L layers.

    Returns:
        (R, L, 16) float32. Near the start, lags are shortened to the available records.
    """
    weights = history.weights
    records = torch.arange(len(weights))
    norms = _norms(weights)
    features = [
        _log((weights - weights[(records - lag).clamp_min(0)]).norm(dim=2) / norms) for lag in _LAGS
    ]
    last = features[0][records.clamp_min(1).clamp_max(len(records) - 1)]
    features += [last - last[(records - span).clamp_min(0)] for span in (5, 10)]
    steps = weights.diff(dim=0, prepend=weights[:1])
    lengths = steps.norm(dim=2).clamp_min(_SMALLEST)
    cosine = (steps * steps.roll(1, dims=0)).sum(dim=2) / (lengths * lengths.roll(1, dims=0))
    cosine[:2] = 0
    features += [cosine, torch.stack([cosine[max(0, t - 4) : t + 1].mean(dim=0) for t in records])]
    quantiles = torch.quantile(steps.abs(), torch.tensor(_QUANTILES), dim=2)
    features += list(_log(quantiles * weights.shape[2] ** 0.5 / norms))
    return torch.stack(features, dim=2)


def drift_features(history: History) -> Tensor:
    """Computes eight features of each record of each layer and all layers before it.

    These reduce the `drift` encoding of all sampled weights to one number per earlier record: the
    displacement since seven fractions of the time so far, and the length of the path since the
    first record, relative to the norm. Each is the logarithm of the root of the sum of squares over
    the layers up to this one.

    Args:
        history: R records of L layers, in execution order.

    Returns:
        (R, L, 8) float32.
    """
    weights, records = history.weights, range(len(history.weights))
    steps = weights.diff(dim=0, prepend=weights[:1]).norm(dim=2)
    moments = [
        weights[[kept_before(record, fraction) for record in records]]
        for fraction in (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16)
    ]
    moved = [(weights - then).norm(dim=2) for then in moments] + [steps.cumsum(dim=0)]
    relative = torch.stack(moved, dim=2) / _norms(weights)[..., None]
    return _log(relative.square().cumsum(dim=1).sqrt())


REGRESSIONS: dict[str, Callable[[History], Tensor]] = {
    "logistic regression": hand_made_features,
    "logistic regression on drift": drift_features,
}
"""Features (R, L, F) of each logistic regression, by name."""


def regression(name: str, histories: Sequence[History], labels: Sequence[Tensor]) -> Pipeline:
    """Fits a logistic regression to all records but the first.

    Args:
        name: name of its features in `REGRESSIONS`.
        histories: histories of R records of L layers each.
        labels: labels, (R, L) bool each.
    """
    features = REGRESSIONS[name]
    inputs = torch.cat([features(each)[1:].flatten(0, 1) for each in histories])
    targets = torch.cat([each[1:].flatten() for each in labels])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(inputs.numpy(), targets.numpy())


def probability_by(model: Pipeline, name: str) -> Callable[[History], Tensor]:
    """Returns a function that maps a history to a fitted regression's probabilities, (R, L)."""

    def probability(history: History) -> Tensor:
        inputs = REGRESSIONS[name](history)
        found = model.predict_proba(inputs.flatten(0, 1).numpy())[:, 1]
        return torch.from_numpy(np.ascontiguousarray(found)).float().reshape(inputs.shape[:2])

    return probability


def _norms(weights: Tensor) -> Tensor:
    return weights.norm(dim=2).clamp_min(_SMALLEST)


def _step_norms(weights: Tensor) -> Tensor:
    """Returns (R, L) norms of the steps; infinite at the first record, which no step precedes."""
    return weights.diff(dim=0, prepend=weights[:1] + torch.inf).norm(dim=2)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(_SMALLEST).log10()
