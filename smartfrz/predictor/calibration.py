"""Calibration of a predictor's probabilities and choice of its freezing threshold."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from smartfrz.predictor.attention import AttentionPredictor


def calibrate(predictor: AttentionPredictor, logits: Tensor, labels: Tensor) -> None:
    """Calibrates the predictor's probabilities on held-out examples, by Platt scaling.

    Scales and shifts the difference of the two logits to minimise the cross-entropy, and folds both
    into the predictor's last layer. The order of the scores does not change. Source: Guo et al.
    (2017), Sec. 4.1.

    Args:
        predictor: the predictor, changed in place.
        logits: (N, 2) its logits for N examples that it was not trained on.
        labels: (N,) bool, their labels.

    Raises:
        ValueError: the examples have only one of the two labels.
    """
    if labels.all() or not labels.any():
        raise ValueError("Calibration needs examples with both labels, but all labels are equal.")
    margin = (logits[:, 1] - logits[:, 0]).double().detach()
    log_scale, shift = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(
            log_scale.exp() * margin + shift, labels.double()
        )
        value.backward()
        return value

    optimizer.step(loss)
    last = predictor.mlp_z[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(log_scale.exp())
        last.bias.mul_(log_scale.exp()).add_(torch.stack([-shift, shift]) / 2)


def freezing_threshold(
    scores: Sequence[Tensor], labels: Sequence[Tensor], precision: float
) -> float:
    """Returns the lowest threshold at which freezing is correct with the requested precision.

    A layer is frozen permanently at the first record whose score exceeds the threshold. Precision
    therefore counts one event per layer, whether the label of that record is "freeze", and not the
    many records that are classified correctly.

    Args:
        scores: for each run, (R, L) scores, oldest record first.
        labels: for each run, (R, L) bool labels.
        precision: required fraction of correctly frozen layers among the frozen layers of all runs.

    Returns:
        The threshold: one of the scores, or minus infinity if every threshold has the precision. If
        no threshold that freezes a layer has it, the highest score, above which nothing is frozen.
    """
    events = [_freezing_events(each, right) for each, right in zip(scores, labels, strict=True)]
    lower, upper, is_right = (torch.cat(part) for part in zip(*events, strict=True))
    thresholds = torch.cat([lower.new_tensor([-torch.inf]), upper]).unique()
    # At a threshold in [lower, upper), a layer freezes at the record with the score upper.
    frozen = _covering(thresholds, lower, upper)
    rightly = _covering(thresholds, lower[is_right], upper[is_right])
    good = rightly >= precision * frozen.double()
    return thresholds[good.nonzero()[0, 0]].item()


def _freezing_events(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the records at which layers can freeze: those that exceed all earlier scores.

    Returns:
        The highest earlier score, the score and the label of each such record, (N,) each.
    """
    highest = scores.cummax(dim=0).values
    before = torch.cat([torch.full_like(highest[:1], -torch.inf), highest[:-1]])
    rises = highest > before
    return before[rises], highest[rises], labels[rises]


def _covering(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Returns the number of intervals [lower, upper) that contain each point."""
    begun = torch.searchsorted(lower.sort().values, points, right=True)
    ended = torch.searchsorted(upper.sort().values, points, right=True)
    return begun - ended
