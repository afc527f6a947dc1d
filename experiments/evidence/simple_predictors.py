"""Baseline predictors: rules without training, and regressions."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from smartfrz.predictor import History, kept_before, output_drift_of

Scorer = Callable[[History], Tensor]
"""Maps a history to scores (R, L); a higher score freezes a layer earlier."""

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


def last_contribution(history: History) -> Tensor:
    """Returns the negated contribution since the previous record, (R, L)."""
    return -history.contribution


def last_output_drift(history: History) -> Tensor:
    """Returns the CKA of the layer's output to that at the previous record, (R, L).

    -1 where the output is the same for all examples, so that CKA is undefined.
    """
    return history.cka_to_previous.nan_to_num(nan=-1.0)


def clock(history: History) -> Tensor:
    """Returns the progress of the run, from 0 to 1, for every layer, (R, L)."""
    return history.progress[:, None].expand(history.cka.shape)


def depth(history: History) -> Tensor:
    """Returns the layer's position, from 1 at the input to 0, at every record, (R, L)."""
    records, layers = history.cka.shape
    return torch.linspace(1, 0, layers).expand(records, layers)


RULES: dict[str, Scorer] = {
    "clock": clock,
    "depth": depth,
    "last displacement": last_displacement,
    "last contribution": last_contribution,
    "output drift": last_output_drift,
    "gradient norm change": gradient_norm_change,
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


def clock_and_depth_features(history: History) -> Tensor:
    """Computes nine features that look at no weights.

    The features are the progress of the run; the layer's position, from 0 at the input to 1; its
    learning rate relative to the largest of the run; the product of the first two; and all of
    these once more if the run started from pretrained weights, with that fact itself.

    Args:
        history: R records of L layers, in execution order.

    Returns:
        (R, L, 9) float32.
    """
    progress, position = clock(history), 1 - depth(history)
    rate = history.lr / history.lr.max().clamp_min(_SMALLEST)
    features = torch.stack([progress, position, rate, progress * position], dim=2)
    whole = torch.cat([torch.ones_like(features[..., :1]), features], dim=2)
    return torch.cat([features, history.is_pretrained * whole], dim=2)


def output_drift_features(history: History) -> Tensor:
    """Returns what the predictor "outputs" reads, see `OutputDrift`: (R, L, WIDTH)."""
    return output_drift_of(history).transpose(0, 1)


RIVAL = "clock, depth and learning rate"
"""The regression that a predictor has to beat: it knows nothing of the layers but their order."""

REGRESSIONS: dict[str, Callable[[History], Tensor]] = {
    RIVAL: clock_and_depth_features,
    "regression on displacements": hand_made_features,
    "regression on drift": drift_features,
    "regression on output drift": output_drift_features,
}
"""Features (R, L, F) of each regression, by name."""


def regression(name: str, histories: Sequence[History], values: Sequence[Tensor]) -> Scorer:
    """Fits a regression to all records but the first.

    Args:
        name: name of its features in `REGRESSIONS`.
        histories: histories of R records of L layers each.
        values: (R, L) each. Bool labels, which a logistic regression predicts, or numbers: the
            higher, the earlier the layer should freeze. Of numbers, a linear regression predicts
            the rank within the run, from 0 to 1.

    Returns:
        A function that maps a history to probabilities or predicted ranks, (R, L).
    """
    features = REGRESSIONS[name]
    inputs = torch.cat([features(each)[1:].flatten(0, 1) for each in histories]).numpy()
    is_binary = values[0].dtype == torch.bool
    targets = [each[1:].flatten().numpy() for each in values]
    if not is_binary:
        targets = [rankdata(each) / len(each) for each in targets]
    last = LogisticRegression(max_iter=1000) if is_binary else LinearRegression()
    model = make_pipeline(StandardScaler(), last).fit(inputs, np.concatenate(targets))

    def score(history: History) -> Tensor:
        rows = features(history)
        flat = rows.flatten(0, 1).numpy()
        found = model.predict_proba(flat)[:, 1] if is_binary else model.predict(flat)
        return torch.from_numpy(np.ascontiguousarray(found)).float().reshape(rows.shape[:2])

    return score


def _norms(weights: Tensor) -> Tensor:
    return weights.norm(dim=2).clamp_min(_SMALLEST)


def _step_norms(weights: Tensor) -> Tensor:
    """Returns (R, L) norms of the steps; infinite at the first record, which no step precedes."""
    return weights.diff(dim=0, prepend=weights[:1] + torch.inf).norm(dim=2)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(_SMALLEST).log10()
