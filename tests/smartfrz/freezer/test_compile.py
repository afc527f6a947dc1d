"""Tests of torch.compile, which recompiles after each freeze, beyond its limit of 8."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx import GraphModule
from torch.optim import SGD

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted

STEPS = 12
FREEZES = 10


class CountingBackend:
    """Compiles to the unchanged graph; counts compilations and calls of compiled code."""

    def __init__(self) -> None:
        self.compilations = 0
        self.calls = 0

    def __call__(self, graph: GraphModule, example_inputs: Any) -> Callable[..., Any]:
        self.compilations += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return graph(*args)

        return run


def build() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Linear(4, 4) for _ in range(FREEZES)]
    return nn.Sequential(*body[:2], nn.BatchNorm1d(4), *body[2:], nn.Linear(4, 2))


def freezer_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Freezer:
    """A freezer that freezes one layer per step from the second step on, except the head."""
    layers = find_layers(model)
    script = {step: [layer.name] for step, layer in enumerate(layers[:-1], 1)}
    assert len(script) == FREEZES
    return Freezer(model, optimizer, Scripted(script), layers)


def train(
    run: nn.Module, freezer: Freezer, step_fn: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Trains for ``STEPS`` steps; ``step_fn`` computes the loss, by default from ``run``."""
    loss_of = step_fn or (lambda x: run(x).square().mean())
    torch.manual_seed(1)
    for _ in range(STEPS):
        run.train()
        loss_of(torch.randn(8, 4)).backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
    assert len(freezer.frozen) == FREEZES


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def eager_weights() -> dict[str, Tensor]:
    model = build()
    train(model, freezer_of(model, SGD(model.parameters(), lr=0.1, momentum=0.9)))
    return model.state_dict()


def check(model: nn.Module, backend: CountingBackend, eager_weights: dict[str, Tensor]) -> None:
    """Checks for one compilation per set of active layers and compiled code in every step."""
    assert backend.compilations == FREEZES + 1
    assert backend.calls == STEPS
    weights = model.state_dict()
    assert all(torch.equal(weights[key], eager_weights[key]) for key in eager_weights)


def test_compiled_model(eager_weights: dict[str, Tensor]):
    model, backend = build(), CountingBackend()
    compiled = torch.compile(model, backend=backend)
    train(compiled, freezer_of(compiled, SGD(model.parameters(), lr=0.1, momentum=0.9)))
    check(model, backend, eager_weights)


def test_model_compiled_in_place(eager_weights: dict[str, Tensor]):
    model, backend = build(), CountingBackend()
    model.compile(backend=backend)
    train(model, freezer_of(model, SGD(model.parameters(), lr=0.1, momentum=0.9)))
    check(model, backend, eager_weights)


def test_compiled_loss_function_around_the_model(eager_weights: dict[str, Tensor]):
    model, backend = build(), CountingBackend()
    loss = torch.compile(lambda x: model(x).square().mean(), backend=backend)
    freezer = freezer_of(model, SGD(model.parameters(), lr=0.1, momentum=0.9))
    train(model, freezer, loss)
    check(model, backend, eager_weights)


def test_compiled_submodules():
    """Layers 0-7 are compiled separately, as repeated blocks often are."""
    model, backend = build(), CountingBackend()
    eager = copy.deepcopy(model)
    for index in range(8):
        model[index].compile(backend=backend)
    for twin in (model, eager):
        train(twin, freezer_of(twin, SGD(twin.parameters(), lr=0.1, momentum=0.9)))
    assert backend.calls == 8 * STEPS
    theirs = eager.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


class Block(nn.Module):
    """One of many that share the code of ``forward``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_blocks_that_are_compiled_one_by_one(in_place: bool):
    """Each of a shape of its own, which are frozen at once, thawed and frozen again."""
    torch.manual_seed(0)
    backend, steps = CountingBackend(), 6
    model = nn.Sequential(*(Block(width) for width in range(2, 10)), nn.Linear(10, 2))
    for index in range(8):
        if in_place:
            model[index].compile(backend=backend, dynamic=False)
        else:
            model[index] = torch.compile(model[index], backend=backend, dynamic=False)
    optimizer = SGD(model.parameters(), lr=0.1)
    layers = find_layers(model, torch.randn(8, 2))
    names = [layer.name for layer in layers[:-1]]
    freezer = Freezer(model, optimizer, Scripted({0: names, 3: names}), layers)
    compilations = []
    for step in range(steps):
        if step == 2:
            freezer.thaw()
        before = backend.compilations
        model(torch.randn(8, 2)).square().mean().backward()
        compilations.append(backend.compilations - before)
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert backend.calls == 8 * steps
    assert compilations == [8, 8, 0, 0, 0, 0]


def test_aot_autograd():
    """The backward pass is compiled, too."""
    model, forward, backward = build(), CountingBackend(), CountingBackend()
    backend = aot_autograd(
        fw_compiler=lambda *args: make_boxed_func(forward(*args)),
        bw_compiler=lambda *args: make_boxed_func(backward(*args)),
    )
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend)
    for run, twin in ((compiled, model), (eager, eager)):
        train(run, freezer_of(run, SGD(twin.parameters(), lr=0.1, momentum=0.9)))
    assert forward.compilations == backward.compilations == FREEZES + 1
    assert forward.calls == backward.calls == STEPS
    theirs = eager.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[key])


def test_other_compiled_code_in_the_process_is_kept():
    teacher, backend = build(), CountingBackend()
    compiled = torch.compile(teacher, backend=backend)
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = freezer_of(model, optimizer)
    torch.manual_seed(1)
    for _ in range(STEPS):
        inputs = torch.randn(8, 4)
        (model(inputs) - compiled(inputs).detach()).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert len(freezer.frozen) == FREEZES
    assert backend.compilations == 1
    assert backend.calls == STEPS
