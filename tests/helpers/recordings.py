"""Synthetic histories of layers."""

import torch

from smartfrz.predictor.recording import History


def made_up(seed: int = 0, records: int = 20, layers: int = 4, size: int = 16) -> History:
    """A history of layers whose changes, CKA and gradients decay at different rates."""
    generator = torch.Generator().manual_seed(seed)
    pace = torch.linspace(0.5, 2, layers)
    left = torch.exp(-3 * pace * torch.arange(records)[:, None] / records)  # (R, L), from 1 to 0
    steps = left[..., None] * torch.randn(records, layers, size, generator=generator)
    start = 20 * torch.randn(layers, size, generator=generator)
    gradient = left * (1 + torch.rand(records, layers, generator=generator))
    return History(start + steps.cumsum(0), 1 - 0.5 * left, gradient, left.mean(dim=1))
