"""Concordance: how often a score ranks two examples in the order of their values."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 2**22


def concordances(values: Sequence[Tensor], scores: Sequence[Tensor]) -> dict[str, float]:
    """Computes concordances of layers and moments of recorded runs.

    A pair counts if its two values differ. The concordance is the fraction of these pairs in which
    the example of the higher value has the higher score; equal scores count half. Pairs of all runs
    have the same weight.

    Args:
        values: for each run (R, L), bool labels or numbers; the higher, the earlier the layer
            should freeze. NaN differs from nothing.
        scores: for each run (R, L), infinite ones included; NaN is not allowed.

    Returns:
        ``within_run``, over all pairs of examples of the same run, which is the AUROC for labels of
        a single run; ``within_moment``, over pairs of layers at the same record; ``within_layer``,
        over pairs of records of the same layer. NaN without any pairs.
    """
    runs = list(zip(values, scores, strict=True))
    return {
        "within_run": _concordance([(v.flatten()[None], s.flatten()[None]) for v, s in runs]),
        "within_moment": _concordance(runs),
        "within_layer": _concordance([(v.T, s.T) for v, s in runs]),
    }


def _concordance(groups: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Computes the concordance within the rows of values and scores, each (groups, N)."""
    counts = [_counts(values, scores) for values, scores in groups]
    agreeing, pairs = (sum(each) for each in zip(*counts, strict=True))
    return agreeing / pairs if pairs else math.nan


def _counts(values: Tensor, scores: Tensor) -> tuple[float, int]:
    """Returns the number of pairs in the order of their values, and of all that differ."""
    values, scores = values.double(), scores.double()
    agreeing, pairs = 0.0, 0
    columns = max(1, _PAIRS_AT_ONCE // values.numel())
    for part in torch.arange(values.shape[1]).split(columns):
        higher = values[:, part, None] > values[:, None]
        ahead = scores[:, part, None] > scores[:, None]
        level = scores[:, part, None] == scores[:, None]
        agreeing += (higher & ahead).sum().item() + (higher & level).sum().item() / 2
        pairs += int(higher.sum())
    return agreeing, pairs
