"""Synthetic histories of layers."""

from typing import Any

import torch
from torch import Tensor

from smartfrz.predictor.recorded import SUMS, History


def history_of(weights: Tensor, cka: Tensor, **others: Any) -> History:
    """A history of R records of L layers; zeros for all that is not given.

    Args:
        weights: (R, L, size) tailored weights.
        cka: (R, L).
        others: other attributes of `History`.
    """
    records, layers = cka.shape
    by_layer = (*SUMS, "gradient", "displacement", "probe_contribution")
    values: dict[str, Any] = {
        **{name: torch.zeros(records, layers) for name in by_layer},
        "cka_between": torch.ones(records, records, layers),
        "loss": torch.zeros(records),
        "progress": torch.linspace(0, 1, records),
        "cost": torch.full((layers,), 0.1),
        "numel": torch.full((layers,), 100),
        "is_pretrained": torch.tensor(False),
    }
    return History(weights, cka, **{**values, **others})


def made_up(
    seed: int = 0, records: int = 20, layers: int = 4, size: int = 16, **others: Any
) -> History:
    """A history of layers whose changes, CKA, gradients and contributions decay at own rates."""
    generator = torch.Generator().manual_seed(seed)
    pace = torch.linspace(0.5, 2, layers)
    left = torch.exp(-3 * pace * torch.arange(records)[:, None] / records)  # (R, L), from 1 to 0
    steps = left[..., None] * torch.randn(records, layers, size, generator=generator)
    start = 20 * torch.randn(layers, size, generator=generator)
    gradient = left * (1 + torch.rand(records, layers, generator=generator))
    values = {
        "gradient": gradient,
        "loss": left.mean(dim=1),
        "probe_contribution": left * torch.rand(records, layers, generator=generator),
        "lr": torch.linspace(1, 0, records)[:, None].expand(records, layers).contiguous(),
        "cka_between": 1 - 0.5 * (left[:, None] - left).abs(),
    }
    return history_of(start + steps.cumsum(0), 1 - 0.5 * left, **{**values, **others})
