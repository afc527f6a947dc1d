"""Tests of inputs of linear layers that are computed again in place of being kept."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.activations import (
    GELUActivation,
    NewGELUActivation,
    QuickGELUActivation,
    SiLUActivation,
)

from smartfrz import restore_memory, save_memory
from smartfrz.memory import activation_bytes
from tests.helpers.architectures import ARCHITECTURES, loss_of

LANGUAGE_MODELS = ("bert", "gpt2", "llama")
WIDTH, BATCH = 8, 4
ROW = 4 * BATCH * WIDTH  # bytes of an output

FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "layer norm without weights": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "gelu of transformers": GELUActivation,
    "silu of transformers": SiLUActivation,
}


def network(function: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    parts = (nn.Linear(WIDTH, WIDTH), function, nn.Linear(WIDTH, WIDTH))
    return nn.Sequential(*parts)


def inputs() -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, WIDTH, generator=seeded, requires_grad=True)


def kept(model: nn.Module) -> int:
    x = inputs()
    known = [*model.parameters(), x]
    return activation_bytes(lambda: model(x).sum(), known)


def kept_by_autocast(model: nn.Module) -> int:
    with torch.autocast("cpu", torch.bfloat16):
        return kept(model)


def gradients(model: nn.Module, dtype: torch.dtype | None = None) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = model(inputs()).float().square().sum()
    loss.backward()
    return [param.grad.clone() for param in model.parameters() if param.grad is not None]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_tensor_less_is_kept_and_gradients_are_equal_to_the_bit(name: str):
    model = network(FUNCTIONS[name]())
    before, expected = kept(model), gradients(model)
    save_memory(model)
    assert kept(model) == before - ROW
    assert all(map(torch.equal, gradients(model), expected))
    restore_memory(model)
    assert kept(model) == before


@pytest.mark.parametrize("kind", [NewGELUActivation, QuickGELUActivation])
def test_activations_of_several_steps_keep_their_input_alone(kind: type[nn.Module]):
    model = network(kind())
    before, expected = kept(model), gradients(model)
    save_memory(model)
    single = network(nn.GELU())
    save_memory(single)
    assert kept(model) == kept(single) <= before - 2 * ROW
    assert all(map(torch.equal, gradients(model), expected))


@pytest.mark.parametrize("width", [WIDTH, 2 * WIDTH, BATCH])
def test_autocast_keeps_no_copy_either(width: int):
    """With as many outputs as rows, the copies of input and weight look the same."""
    model = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, width))
    before, expected = kept_by_autocast(model), gradients(model, torch.bfloat16)
    save_memory(model)
    assert kept_by_autocast(model) == before - (0 if width == BATCH else ROW // 2)
    assert all(map(torch.equal, gradients(model, torch.bfloat16), expected))


@pytest.mark.parametrize(
    ("frozen", "saved"), [(0, ROW), (1, ROW), (2, 0)], ids=["first", "function", "last"]
)
def test_with_a_frozen_layer(frozen: int, saved: int):
    """A frozen linear layer needs no input."""
    model = network(nn.LayerNorm(WIDTH))
    model[frozen].requires_grad_(False)
    before, expected = kept(model), gradients(model)
    save_memory(model)
    assert kept(model) == before - saved
    assert all(map(torch.equal, gradients(model), expected))


class Changed(nn.Module):
    """Changes a tensor in place between a function and the linear layer, or after both."""

    def __init__(self, what: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.function = nn.GELU()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.function(x)
        if self.what == "output":
            y.mul_(2)
        z = self.last(y)
        if self.what == "input":
            x.detach().zero_()
        return z


def test_an_output_that_is_changed_is_kept():
    model = Changed("output")
    before, expected = kept(model), gradients(model)
    save_memory(model)
    assert kept(model) == before
    assert all(map(torch.equal, gradients(model), expected))


def test_an_input_that_is_changed_is_an_error_as_in_pytorch():
    model = Changed("input")
    for prepare in (restore_memory, save_memory):
        prepare(model)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(model)


def test_functions_in_place_are_left_alone():
    model = network(nn.SiLU(inplace=True))
    before, expected = kept(model), gradients(model)
    save_memory(model)
    assert kept(model) == before
    assert all(map(torch.equal, gradients(model), expected))


def test_gradients_of_gradients():
    model = network(nn.GELU()).double()
    save_memory(model)
    x = inputs().double().requires_grad_()
    assert torch.autograd.gradgradcheck(model, (x,))


def test_nothing_is_kept_alive_once_the_output_is_gone():
    model = network(nn.GELU())
    save_memory(model)
    hidden: list[StorageWeakRef] = []
    model[0].register_forward_hook(
        lambda module, args, output: hidden.append(StorageWeakRef(output.untyped_storage()))
    )
    gc.disable()
    try:
        output = model(inputs())
        assert not hidden[0].expired()
        del output
        assert hidden[0].expired()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["timm deit", *(f"transformers {k}" for k in LANGUAGE_MODELS)])
def test_transformers_keep_less_even_if_nothing_is_frozen(name: str):
    architecture = ARCHITECTURES[name]
    model, batch = architecture.build(), architecture.inputs()

    def kept() -> int:
        return activation_bytes(lambda: loss_of(model, batch), model.parameters())

    before = kept()
    save_memory(model)
    assert kept() < 0.85 * before


ACTIVATIONS: dict[str, Callable[[bool], nn.Module]] = {
    "relu": lambda inplace: nn.ReLU(inplace),
    "relu6": lambda inplace: nn.ReLU6(inplace),
    "leaky relu": lambda inplace: nn.LeakyReLU(inplace=inplace),
    "silu": lambda inplace: nn.SiLU(inplace),
}
PIXELS = 2 * 8 * 6 * 6


def convolutions(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    model = nn.Sequential(first, nn.BatchNorm2d(8), activation, last)
    for param in model[1].parameters():
        nn.init.normal_(param)
    return model


def images() -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(2, 8, 6, 6, generator=seeded, requires_grad=True)


def gradients_of_images(model: nn.Module, dtype: torch.dtype | None = None) -> list[Tensor]:
    x = images()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = model(x).float().square().sum()
    read = [x, *(param for param in model.parameters() if param.requires_grad)]
    return list(torch.autograd.grad(loss, read))


def kept_of_images(model: nn.Module) -> int:
    x = images()
    known = [x, *model.parameters(), *model.buffers()]
    return activation_bytes(lambda: model(x).sum(), known)


@pytest.mark.parametrize("frozen", [(), (0,), (3,)], ids=["nothing", "first", "last"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_batch_norm_that_trains_keeps_its_input_alone(
    name: str, in_place: bool, memory_format: torch.memory_format, dtype: torch.dtype, frozen
):
    """Neither the activation nor the convolution that follow keep anything."""
    model = convolutions(ACTIVATIONS[name](in_place)).to(memory_format=memory_format)
    for place in frozen:
        model[place].requires_grad_(False)
    expected = gradients_of_images(model, dtype)
    save_memory(model)
    assert all(map(torch.equal, gradients_of_images(model, dtype), expected))
    statistics, loss = 2 * 4 * 8, 4
    silu_in_place = 4 * PIXELS if name == "silu" and in_place else 0  # PyTorch keeps a copy
    assert kept_of_images(model) == 4 * PIXELS + statistics + loss + silu_in_place


def test_a_batch_norm_in_eval_mode_that_trains_keeps_its_input_alone():
    model = convolutions(nn.ReLU())
    model[1].eval()
    expected = gradients_of_images(model)
    save_memory(model)
    assert all(map(torch.equal, gradients_of_images(model), expected))
    assert kept_of_images(model) == 4 * PIXELS + 4


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm3d])
@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_other_batch_norms(norm: type[nn.Module], options: dict[str, bool]):
    torch.manual_seed(0)
    conv, sizes = (nn.Conv1d, (5,)) if norm is nn.BatchNorm1d else (nn.Conv3d, (3, 4, 5))
    model = nn.Sequential(norm(4, **options), nn.ReLU(), conv(4, 2, 2))
    x = torch.randn(3, 4, *sizes, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(x).square().sum(), (x, *model.parameters()))

    expected = gradients()
    save_memory(model)
    assert all(map(torch.equal, gradients(), expected))


def test_a_residual_added_to_a_batch_norm_is_not_forgotten():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = convolutions(nn.ReLU(inplace=True))

        def forward(self, x: Tensor) -> Tensor:
            conv, norm, relu, last = self.layers
            y = norm(conv(x))
            y += x
            return last(relu(y))

    model = Residual()
    expected = gradients_of_images(model)
    save_memory(model)
    assert all(map(torch.equal, gradients_of_images(model), expected))


def test_a_norm_after_a_convolution_of_images_keeps_the_images_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    x = torch.randn(2, 3, 8, 8)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(x).square().sum(), tuple(model.parameters()))

    def kept() -> int:
        known = [x, *model.parameters(), *model.buffers()]
        return activation_bytes(lambda: model(x).sum(), known)

    expected = gradients()
    save_memory(model)
    assert all(map(torch.equal, gradients(), expected))
    normed, indices, statistics, loss = 2 * 16 * 6 * 6, 2 * 16 * 3 * 3, 2 * 4 * 16, 4
    least = normed // 8 + indices + statistics + loss
    assert kept() == least
    model[0].requires_grad_(False)  # a convolution that keeps no images
    assert kept() == 4 * normed + least


def test_a_backward_pass_may_be_repeated():
    model = convolutions(nn.ReLU())
    save_memory(model)
    loss = model(images()).square().sum()
    params = tuple(model.parameters())
    first = torch.autograd.grad(loss, params, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, params), first))
