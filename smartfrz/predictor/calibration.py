"""From a predictor's scores to probabilities that mean what they say, and where to cut them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from smartfrz.predictor.attention import AttentionPredictor


def calibrate(predictor: AttentionPredictor, logits: Tensor, labels: Tensor) -> None:
    """Makes the predictor's probabilities as likely as they say, on data it did not learn from.

    Platt scaling: the difference of the two logits is scaled and shifted so that the cross-entropy
    is least, and both are folded into the predictor's last layer. The order of its scores does not
    change. Source: Guo et al. (2017), Sec. 4.1.

    Args:
        predictor: changed in place.
        logits: (N, 2) what it says of N examples.
        labels: (N,) bool.

    Raises:
        ValueError: the examples have only one of the two labels.
    """
    if labels.all() or not labels.any():
        raise ValueError("Calibration needs examples of both labels.")
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
    """The lowest score above which to freeze, so that freezing is right as often as asked for.

    A layer is frozen once, at the first record whose score is above the threshold, and never comes
    back. So that is what is counted: not how many records are told right, of which a training has
    many, but whether the label of that one is "freeze".

    Args:
        scores: of each training (R, L), oldest record first.
        labels: (R, L) bool each.
        precision: the part of the layers frozen, over all trainings, that has to be frozen rightly.

    Returns:
        The threshold, one of the scores, or minus infinity, if any will do; if none will, the
        highest score, above which nothing is frozen.
    """
    events = [_freezing_events(each, right) for each, right in zip(scores, labels, strict=True)]
    lower, upper, is_right = (torch.cat(part) for part in zip(*events, strict=True))
    thresholds = torch.cat([lower.new_tensor([-torch.inf]), upper]).unique()
    # At a threshold in [lower, upper) a layer freezes at the record that raises it to upper.
    frozen = _covering(thresholds, lower, upper)
    rightly = _covering(thresholds, lower[is_right], upper[is_right])
    good = rightly >= precision * frozen.double()
    return thresholds[good.nonzero()[0, 0]].item()


def _freezing_events(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each record whose score is higher than all before: the highest before, itself, its label."""
    highest = scores.cummax(dim=0).values
    before = torch.cat([torch.full_like(highest[:1], -torch.inf), highest[:-1]])
    rises = highest > before
    return before[rises], highest[rises], labels[rises]


def _covering(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """How many of the intervals [lower, upper) each point is in."""
    begun = torch.searchsorted(lower.sort().values, points, right=True)
    ended = torch.searchsorted(upper.sort().values, points, right=True)
    return begun - ended
