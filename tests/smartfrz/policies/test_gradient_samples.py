"""Tests of the sampled gradients that are compared before each record."""

import pytest
import torch
from torch import nn

from smartfrz import find_layers
from smartfrz.policies.gradient_samples import GradientSamples

INTERVAL = 20


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def taken(model: nn.Module, steps: range, size: int = 256) -> tuple[list[float], list[float]]:
    samples, layers = GradientSamples(INTERVAL, size), find_layers(model)
    for step in steps:
        set_gradients(model, step)
        samples.observe(layers, step)
    return samples.take([layer for layer in layers if layer.is_head])


def flat(model: nn.Module, step: int) -> torch.Tensor:
    set_gradients(model, step)
    gradients = [param.grad for param in model.parameters() if param.ndim > 1]
    reals = [torch.view_as_real(each) if each.is_complex() else each for each in gradients]
    return torch.cat([each.flatten() for each in reals])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_with_as_many_samples_as_weights_they_are_the_cosines_of_the_gradients(dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    cosines, squares = taken(model, range(1, INTERVAL + 1), 64 if dtype == torch.float32 else 128)
    read = range(INTERVAL - 8, INTERVAL + 1)
    pairs = [(flat(model, step), flat(model, step + 1)) for step in read[:-1]]
    by_hand = [torch.cosine_similarity(a, b, dim=0).item() for a, b in pairs]
    assert cosines == pytest.approx(by_hand, abs=1e-6)
    norms = [flat(model, step).chunk(2)[1].square().sum().item() for step in read]
    assert squares == pytest.approx(norms, rel=1e-5)


def test_the_memory_format_makes_no_difference() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    expected = taken(model, range(12, 21))
    samples, layers = GradientSamples(INTERVAL), find_layers(model)
    for step in range(12, 21):
        set_gradients(model, step)
        weight = model[0].weight
        weight.grad = weight.grad.contiguous(memory_format=torch.channels_last)
        samples.observe(layers, step)
    found = samples.take(layers[-1:])
    assert found[0] == pytest.approx(expected[0]) and found[1] == pytest.approx(expected[1])


def test_of_many_layers_a_few_are_read_and_the_heads() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(100)), nn.Linear(4, 2))
    samples, layers = GradientSamples(INTERVAL), find_layers(model)
    set_gradients(model, 0)
    samples.observe(layers, 0)
    ((names, _),) = samples.state_dict()["steps"]
    assert len(names) <= 17 and names[0] == "0" and names[-1] == layers[-1].name
