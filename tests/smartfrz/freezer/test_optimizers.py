"""Tests of every optimizer of PyTorch with frozen layers, and of optimizers that move them."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted

OPTIMIZERS = [
    value
    for value in vars(torch.optim).values()
    if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
]
# SparseAdam takes sparse gradients only; LBFGS is refused, see test_exact.py.
DENSE = [each for each in OPTIMIZERS if each.__name__ not in ("LBFGS", "SparseAdam")]


class Decaying(Optimizer):
    """Decays every parameter, with or without a gradient; ``in_place`` as autograd sees it."""

    def __init__(self, params, lr=0.1, decay=0.01, in_place=True, period=1, begin=0):
        super().__init__(params, {"lr": lr})
        self.decay, self.in_place, self.period = decay, in_place, period
        self.count = -begin

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for param in group["params"]:
                if self.count > 0 and self.count % self.period == 0:
                    (param if self.in_place else param.data).mul_(1 - self.decay)
                if param.grad is not None:
                    param.data.add_(param.grad, alpha=-group["lr"])


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.ReLU()),
        nn.Linear(6, 2, bias=False),
    )


def train(model: nn.Module, freezer: Freezer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        model(torch.randn(8, 6)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", DENSE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_optimizers_of_pytorch_leave_frozen_weights_alone(optimizer, weight_decay):
    if weight_decay and "weight_decay" not in inspect.signature(optimizer).parameters:
        pytest.skip("it has no weight decay")
    decay = {"weight_decay": weight_decay} if weight_decay else {}
    model = build()
    freezer = Freezer(model, optimizer(model.parameters(), **decay), Scripted({3: ["0"], 6: ["2"]}))
    train(model, freezer, 7)
    frozen = copy.deepcopy([model[0].weight, model[2].weight])
    train(model, freezer, 12)
    assert torch.equal(model[0].weight, frozen[0]) and torch.equal(model[2].weight, frozen[1])


@pytest.mark.parametrize("in_place", [True, False])
def test_an_optimizer_that_moves_frozen_weights_is_named_at_the_next_step(in_place):
    model = build()
    optimizer = Decaying(model.parameters(), in_place=in_place)
    freezer = Freezer(model, optimizer, Scripted({3: ["2"]}))
    train(model, freezer, 4)
    with pytest.raises(RuntimeError, match=r"Decaying changed the frozen layers \['2'\]"):
        train(model, freezer, 1)


@pytest.mark.parametrize("period", [3, 5])
def test_so_is_one_that_does_it_now_and_then(period):
    model = build()
    freezer = Freezer(model, Decaying(model.parameters(), period=period), Scripted({0: ["0"]}))
    with pytest.raises(RuntimeError, match=r"Decaying changed the frozen layers \['0'\]"):
        train(model, freezer, 20)


def test_what_was_seen_before_another_freeze_is_not_lost():
    model = build()
    freezer = Freezer(model, Decaying(model.parameters(), period=3), Scripted({0: ["0"], 7: ["2"]}))
    with pytest.raises(RuntimeError, match=r"Decaying changed the frozen layers \['0'\]"):
        train(model, freezer, 8)


def test_only_the_steps_after_a_freeze_are_watched():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"], 6: ["2"]}))
    hooks = []
    for _ in range(40):
        train(model, freezer, 1)
        hooks.append(len(optimizer._optimizer_step_pre_hooks))
    assert hooks == [0] * 2 + [1] * 19 + [0] * 19


def test_weights_that_are_loaded_between_two_steps_are_no_fault():
    model, other = build(), build()
    with torch.no_grad():
        other[0].weight.add_(1)
    freezer = Freezer(model, torch.optim.SGD(model.parameters(), 0.1), Scripted({1: ["0"]}))
    train(model, freezer, 2)
    model.load_state_dict(other.state_dict())
    train(model, freezer, 4)
    assert torch.equal(model[0].weight, other[0].weight)


def test_a_step_that_a_grad_scaler_skips_is_no_step():
    model = build()
    optimizer = Decaying(model.parameters())
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}))
    model(torch.randn(8, 6)).sum().backward()
    freezer.step()
    for _ in range(3):  # the optimizer's step is skipped
        optimizer.zero_grad()
        freezer.step()
    optimizer.step()
    with pytest.raises(RuntimeError, match="Decaying"):
        freezer.step()


def test_layers_frozen_by_a_resume_are_checked_as_well():
    model = build()
    freezer = Freezer(model, Decaying(model.parameters()), Scripted({}))
    freezer.load_state_dict({"step": 5, "frozen": {"0": 3}, "policy": {}})
    train(model, freezer, 1)
    with pytest.raises(RuntimeError, match="Decaying"):
        train(model, freezer, 1)


def test_the_head_is_found_in_the_model():
    assert [layer.name for layer in find_layers(build())] == ["0", "2", "4"]


def test_layers_may_be_frozen_inside_the_closure_of_an_optimizer_step():
    """Lightning runs the backward pass, and its callbacks, in the closure."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, Scripted({1: ["0"]}))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6)).square().mean()
        loss.backward()
        if freezer.step():
            frozen.append(model[0].weight.clone())
        return loss

    frozen: list[torch.Tensor] = []
    for _ in range(4):
        optimizer.step(closure)
    assert freezer.frozen == {"0": 1}
    assert torch.equal(model[0].weight, frozen[0])
