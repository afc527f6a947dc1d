"""Tests of whether a model's weights are pretrained."""

import pytest
import torch
from torch import nn

from smartfrz import find_layers
from smartfrz.initialisation import is_pretrained, spectral_ratio
from tests.helpers.architectures import ARCHITECTURES


@pytest.mark.parametrize("name", ["torchvision vgg", "torchvision densenet", "torch transformer"])
def test_a_network_with_random_weights_is_not_pretrained(name: str) -> None:
    model = ARCHITECTURES[name].build()
    assert not is_pretrained(find_layers(model, ARCHITECTURES[name].inputs()))


@pytest.mark.parametrize("shape", [(64, 64), (200, 30, 3, 3), (16, 500)])
@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
def test_random_matrices_have_ratio_1_whatever_their_scale_and_shape(shape, draw) -> None:
    torch.manual_seed(0)
    weight = 1e-3 * (draw(shape) - (0.5 if draw is torch.rand else 0.0))
    assert spectral_ratio(weight) == pytest.approx(1.0, abs=0.1)
    matrix = weight.flatten(1)
    edge = matrix.square().mean().sqrt() * sum(side**0.5 for side in matrix.shape)
    exact = float(torch.linalg.matrix_norm(matrix, ord=2) / edge)
    assert spectral_ratio(weight) == pytest.approx(exact, rel=0.08)


def test_a_network_that_has_learned_something_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    layers = find_layers(model)
    assert not is_pretrained(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(300):
        inputs = torch.randn(64, 32)
        labels = (inputs[:, :4].sum(dim=1) > 0).long()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert is_pretrained(layers)


def test_weights_too_small_for_a_spectrum_say_nothing() -> None:
    assert spectral_ratio(torch.randn(3, 100)) is None
    assert spectral_ratio(torch.zeros(8, 8)) is None
    assert not is_pretrained(find_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
