"""Tests of the optimizer's param groups, which are kept, and of the state of frozen layers."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from smartfrz import Freezer
from tests.helpers.scripted import Scripted


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def groups_of(model: nn.Module) -> list[dict]:
    """Two groups, each with parameters of every layer: weight decay for matrices only."""
    matrices = [param for param in model.parameters() if param.ndim > 1]
    vectors = [param for param in model.parameters() if param.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "lr": 0.01}]


def train(model: nn.Module, freezer: Freezer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(8, 3)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


SCRIPT = Scripted({1: ["0"], 3: ["2"]})


@pytest.mark.parametrize("optimizer_type", [SGD, AdamW])
def test_groups_keep_their_number_order_and_parameters(optimizer_type: type[Optimizer]):
    model = build()
    optimizer = optimizer_type(groups_of(model), lr=0.1)
    before = [list(group["params"]) for group in optimizer.param_groups]
    train(model, Freezer(model, optimizer, SCRIPT), 5)
    after = [group["params"] for group in optimizer.param_groups]
    assert [[id(p) for p in group] for group in after] == [[id(p) for p in g] for g in before]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [
        0.1,
        optimizer.defaults["weight_decay"],
    ]


def test_only_what_trains_has_optimizer_state():
    model = build()
    optimizer = AdamW(groups_of(model), lr=0.1)
    freezer = Freezer(model, optimizer, SCRIPT)
    train(model, freezer, 1)
    assert optimizer.state.keys() == set(model.parameters())
    train(model, freezer, 4)
    assert optimizer.state.keys() == set(model[3].parameters())
    assert all(param.requires_grad == (param in optimizer.state) for param in model.parameters())


def test_optimizer_state_round_trip():
    """The saved state can be loaded into an optimizer without a freezer."""
    model = build()
    optimizer = AdamW(groups_of(model), lr=0.1)
    train(model, Freezer(model, optimizer, SCRIPT), 5)
    twin = build()
    other = AdamW(groups_of(twin), lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert other.state.keys() == set(twin[3].parameters())
    for ours, theirs in zip(model[3].parameters(), twin[3].parameters(), strict=True):
        assert torch.equal(optimizer.state[ours]["exp_avg"], other.state[theirs]["exp_avg"])


def test_learning_rate_schedulers_go_on():
    model = build()
    optimizer = SGD(groups_of(model), lr=0.1)
    one_cycle = OneCycleLR(optimizer, max_lr=[0.1, 0.01], total_steps=10)
    freezer = Freezer(model, optimizer, SCRIPT)
    twin = SGD(groups_of(build()), lr=0.1)
    twin_cycle = OneCycleLR(twin, max_lr=[0.1, 0.01], total_steps=10)
    for _ in range(9):
        train(model, freezer, 1)
        one_cycle.step()
        twin.step()
        twin_cycle.step()
        assert one_cycle.get_last_lr() == twin_cycle.get_last_lr()


def test_a_scheduler_made_after_freezing_has_a_rate_for_every_group():
    model = build()
    optimizer = SGD(groups_of(model), lr=0.1)
    train(model, Freezer(model, optimizer, SCRIPT), 5)
    scheduler = LambdaLR(optimizer, [lambda epoch: 0.5, lambda epoch: 2.0])
    assert scheduler.get_last_lr() == [0.05, 0.02]


def test_parameters_outside_the_optimizer_freeze_too():
    model = build()
    optimizer = SGD(model[3].parameters(), lr=0.1, momentum=0.9)
    train(model, Freezer(model, optimizer, SCRIPT), 5)
    assert [param.requires_grad for param in model.parameters()] == [False] * 6 + [True] * 2
