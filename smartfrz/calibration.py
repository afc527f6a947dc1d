"""From a predictor's scores to probabilities that mean what they say, and where to cut them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from smartfrz.predictor import AttentionPredictor


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


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The score above which to say "freeze", so that F1 is highest.

    Args:
        scores: (N,).
        labels: (N,) bool, at least one of them true.

    Returns:
        The middle between two neighbouring scores, or infinity below the lowest.
    """
    order = scores.argsort(descending=True)
    ordered, hits = scores[order], labels[order].double().cumsum(0)
    chosen = torch.arange(1, len(scores) + 1)
    f1 = 2 * hits / (chosen + labels.sum())
    # Only between different scores can be cut.
    following = torch.cat([ordered[1:], ordered.new_tensor([-torch.inf])])
    best = int(torch.where(following < ordered, f1, -1.0).argmax())
    upper, lower = ordered[best], following[best]
    middle = (upper + lower) / 2
    # Of scores next to each other, or infinite, the middle may be the upper one or no number.
    return float(middle if middle < upper else lower)
