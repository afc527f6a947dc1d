"""Tests of complex weights: layers of their own, which every policy can read and freeze."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import AutoFreeze, DisplacementRule, FreezeOut, RandomOrder
from baselines.freezeout import param_groups
from smartfrz import AttentionPredictor, Freezer, SimilarityGuided, SmartFRZ, find_layers

X = torch.randn(6, 2, 16)


class SpectralConvolution(nn.Module):
    """Multiplies the lowest frequencies by complex matrices (Fourier neural operator)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, dtype=torch.cfloat) / 4)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        out = torch.zeros_like(spectrum)
        out[..., :3] = torch.einsum("bix,iox->box", spectrum[..., :3], self.weight)
        return torch.fft.irfft(out, n=x.shape[-1])


def operator() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 4, 1), SpectralConvolution(), nn.Tanh(), SpectralConvolution(),
        nn.Conv1d(4, 1, 1),
    )  # fmt: skip


POLICIES: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
    "SmartFRZ": lambda model, optimizer: SmartFRZ(
        AttentionPredictor.from_pretrained(), interval=1, threshold=0.0, min_records=2, guard=False
    ),
    "SimilarityGuided": lambda model, optimizer: SimilarityGuided(
        model, operator(), [X], 2, len(X), tolerance=2.0
    ),
    "DisplacementRule": lambda model, optimizer: DisplacementRule(1, threshold=10.0),
    "AutoFreeze": lambda model, optimizer: AutoFreeze(2, 2, percentile=100.0),
    "FreezeOut": lambda model, optimizer: FreezeOut(optimizer, total_steps=8, t0=0.1),
    "RandomOrder": lambda model, optimizer: RandomOrder(total_steps=8, span=0.5),
}


@pytest.mark.filterwarnings("error:Casting complex values")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_freezes_complex_layers(policy: str):
    model = operator()
    layers = find_layers(model, X)
    assert [layer.name for layer in layers] == ["0", "1", "3", "4"]
    assert [layer.is_head for layer in layers] == [False, False, False, True]
    optimizer = torch.optim.AdamW(param_groups(model, layers), lr=0.01)
    freezer = Freezer(model, optimizer, POLICIES[policy](model, optimizer), layers)
    frozen: dict[str, Tensor] = {}
    for _ in range(8):
        model(X).square().mean().backward()
        for layer in freezer.step():
            frozen[layer.name] = layer.params[0].detach().clone()
        optimizer.step()
        optimizer.zero_grad()
    assert "1" in frozen
    assert all(torch.equal(model[int(name)].weight, frozen[name]) for name in frozen)
