"""Tests of the faster weight gradients of depthwise convolutions."""

import copy

import pytest
import torch
from torch import Tensor, nn

from experiments.models.depthwise import speed_up_depthwise
from experiments.models.registry import build_model
from smartfrz import find_layers
from smartfrz.cost import forward_macs
from smartfrz.graph import trace


def gradients(model: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    inputs = inputs.clone().requires_grad_()
    model.zero_grad()
    outputs = model(inputs)
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    return outputs, [inputs.grad, *(param.grad for param in model.parameters())]


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize(("kernel", "padding"), [(5, 2), (5, 0), (7, (3, 1)), ((5, 3), 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_has_the_same_output_and_gradients(
    stride, kernel, padding, memory_format
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=False)
    conv.to(memory_format=memory_format)
    fast = nn.Sequential(copy.deepcopy(conv))
    speed_up_depthwise(fast)
    inputs = torch.randn(3, 6, 9, 8).contiguous(memory_format=memory_format)
    (expected, wanted), (outputs, found) = gradients(conv, inputs), gradients(fast, inputs)
    assert torch.equal(outputs, expected) and type(fast[0]) is not nn.Conv2d
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_network_computes_the_same_and_costs_the_same() -> None:
    torch.manual_seed(0)
    plain = build_model("efficientnet_lite0", 10, 32).eval()
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    inputs = torch.randn(2, 3, 32, 32)
    names = [[layer.name for layer in find_layers(each, inputs)] for each in (plain, fast)]
    assert names[0] == names[1]
    changed = [
        new
        for old, new in zip(plain.modules(), fast.modules(), strict=True)
        if type(old) is not type(new)
    ]
    assert len(changed) == 10
    frozen = changed[0]
    frozen.weight.requires_grad_(False)
    (expected, wanted), (outputs, found) = gradients(plain, inputs), gradients(fast, inputs)
    assert torch.equal(outputs, expected) and frozen.weight.grad is None
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if a is not None]
    assert len(pairs) == len(wanted) - 1
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())) for a, b in pairs)
    assert forward_macs(trace(fast, inputs)) == forward_macs(trace(plain, inputs))


def test_other_convolutions_stay_as_they_are() -> None:
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 8, 5, groups=4, bias=False),
        nn.Conv2d(4, 4, 5, groups=4),
        nn.Conv2d(4, 4, 5, groups=2, bias=False),
        nn.Conv2d(4, 4, 5, groups=4, bias=False, dilation=2),
        nn.Conv2d(4, 4, 5, groups=4, bias=False, padding="same"),
        nn.Conv2d(4, 4, 5, groups=4, bias=False, padding_mode="reflect"),
    )
    speed_up_depthwise(others)
    assert {type(each) for each in others} == {nn.Conv2d}
