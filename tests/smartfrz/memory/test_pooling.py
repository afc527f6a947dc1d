"""Tests of max pooling with memory saving: gradients, and the bytes of an index."""

import pytest
import torch
from torch import nn

from smartfrz import save_memory
from smartfrz.memory.activations import activation_bytes


@pytest.mark.parametrize(
    ("pool", "shape"), [(nn.MaxPool2d(2), (1, 300, 300)), (nn.MaxPool1d(2), (1, 70_000))]
)
def test_max_pooling_without_a_batch(pool, shape):
    x = torch.randn(shape, requires_grad=True)
    (stock,) = torch.autograd.grad(pool(x).square().sum(), x)
    save_memory(pool)
    assert torch.equal(torch.autograd.grad(pool(x).square().sum(), x)[0], stock)


@pytest.mark.parametrize(
    ("pool", "sizes", "index"),
    [
        (nn.MaxPool1d(3, 2, padding=1), (300,), 1),
        (nn.MaxPool1d(2, dilation=300), (900,), 2),
        (nn.MaxPool2d(2), (80, 224), 1),
        (nn.MaxPool2d((3, 2), (1, 2), padding=(1, 0)), (9, 200), 2),
        (nn.MaxPool2d(2, ceil_mode=True), (7, 9), 1),
        (nn.MaxPool3d(2, dilation=(1, 2, 1)), (4, 5, 6), 1),
        (nn.MaxPool3d(2), (2, 200, 200), 4),
    ],
)
def test_an_index_of_max_pooling_takes_as_many_bytes_as_its_window_needs(pool, sizes, index):
    model = nn.Sequential(nn.Identity(), pool)
    x = torch.randn(2, 3, *sizes, requires_grad=True)
    output = model(x)
    (stock,) = torch.autograd.grad(output.square().sum(), x)
    save_memory(model)
    assert activation_bytes(lambda: model(x), [x]) == output.nbytes + index * output.numel()
    assert torch.equal(torch.autograd.grad(model(x).square().sum(), x)[0], stock)
