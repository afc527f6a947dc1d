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
