"""Tests of memory saving where outputs are overwritten in place."""

import pytest
import torch
from torch import Tensor, nn

from smartfrz import save_memory


@pytest.mark.parametrize("train_next", [False, True])
def test_an_activation_that_is_overwritten_is_an_error_as_in_pytorch(train_next):
    first, relu, second = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    model = nn.Sequential(first, relu, second)
    second.requires_grad_(train_next)
    save_memory(model)
    activated = relu(first(torch.randn(1, 3, 4, 4)))
    activated.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second(activated).sum().backward()


@pytest.mark.parametrize("train_next", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU])
def test_a_residual_is_added_in_place_where_pytorch_allows_it(activation, inplace, train_next):
    """PyTorch allows it for LeakyReLU, as in Darknet blocks; ReLU needs its output itself."""
    torch.manual_seed(0)
    first, relu, second = nn.Conv2d(3, 4, 1), activation(), nn.Conv2d(4, 2, 1)
    second.requires_grad_(train_next)
    x, residual = 8 * torch.randn(1, 3, 4, 4), 8 * torch.randn(1, 4, 4, 4)

    def gradient(where: slice = slice(None)) -> Tensor:
        activated = relu(first(x))
        activated[:, where] += residual[:, where]
        return torch.autograd.grad(second(activated).square().sum(), first.weight)[0]

    if activation is nn.ReLU:
        with pytest.raises(RuntimeError):
            gradient()
        return
    stock = gradient(), gradient(slice(2, None))
    relu.inplace = inplace
    save_memory(nn.ModuleList([first, relu, second]))
    assert torch.equal(gradient(), stock[0])
    assert torch.equal(gradient(slice(2, None)), stock[1])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU])
def test_an_activation_may_overwrite_a_view(activation):
    weight, relu = torch.randn(2, 6, requires_grad=True), activation(inplace=True)

    def gradient() -> Tensor:
        x = 4 * weight
        relu(x[:, :3])
        return torch.autograd.grad(x.square().sum(), weight)[0]

    stock = gradient()
    save_memory(relu)
    assert torch.equal(gradient(), stock)


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.LeakyReLU])
def test_an_output_that_is_overwritten_after_a_layer_has_saved_it_is_an_error(activation):
    first, relu, second = nn.Conv2d(3, 4, 1), activation(), nn.Conv2d(4, 2, 1)
    save_memory(nn.ModuleList([first, relu, second]))
    activated = relu(first(torch.randn(1, 3, 4, 4)))
    output = second(activated)
    activated.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
