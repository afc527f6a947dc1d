"""Tests of the costs of a step, and of what a run has spent."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from smartfrz import ComputeBudget, Freezer, find_layers
from smartfrz.cost import StepCosts, compute_spent, training_flops
from smartfrz.graph import trace
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.scripted import Scripted


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def train(freezer: Freezer, steps: int, *others: Any) -> None:
    for _ in range(steps):
        freezer.model(torch.ones(1, 2)).sum().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
        for other in others:
            other.step()


@pytest.mark.parametrize("name", ["torchvision mobilenet_v2", "torch transformer"])
def test_a_step_costs_the_flops_of_what_trains(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model, inputs = architecture.build(), architecture.inputs()
    layers = find_layers(model, inputs)
    costs, calls = StepCosts(model, layers, inputs), trace(model, inputs)
    full = training_flops(calls, list(model.parameters()))
    for frozen in (layers[:0], layers[:3], layers[1:4], layers[::2], layers):
        params = {param for layer in frozen for param in layer.params}
        trains = [param for param in model.parameters() if param not in params]
        assert costs([layer.name for layer in frozen]) == training_flops(calls, trains) / full


def test_with_gradients_of_the_input_frozen_layers_cost_a_backward_pass() -> None:
    model = net()
    costs = StepCosts(model, find_layers(model))
    assert costs(["0"]) == pytest.approx((3 * 96 - 2 * 16 - 64) / (3 * 96))
    assert costs(["0"], input_gradients=True) == pytest.approx((3 * 96 - 16) / (3 * 96))


def test_costs_do_not_keep_weights_in_memory() -> None:
    model = net()
    weight = weakref.ref(model[1].weight)
    costs = StepCosts(model, find_layers(model))
    del model
    gc.collect()
    assert weight() is None
    assert costs(["0", "1"]) == pytest.approx((96 + 16) / (3 * 96))


def test_a_layer_that_is_not_there_is_an_error() -> None:
    model = net()
    with pytest.raises(ValueError, match=r"no layers \['3'\]: it has \['0', '1', '2'\]"):
        StepCosts(model, find_layers(model))(["1", "3"])


def test_a_freezer_finds_layers_and_costs_with_the_same_inputs() -> None:
    """Nothing can be guessed for an input of 9 channels and 5 pixels."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1:] == (9, 5)
            return self.head(self.body(x))

    model = Odd()
    freezer = Freezer(model, SGD(model.parameters(), 0.1), example_inputs=torch.zeros(1, 9, 5))
    assert [layer.name for layer in freezer.layers] == ["body", "head"]
    assert freezer.costs(["body"]) == pytest.approx((28 + 8) / (3 * 28))
    assert freezer.costs is freezer.costs
    with pytest.raises(ValueError, match="Pass example_inputs"):
        _ = Freezer(model, SGD(model.parameters(), 0.1), layers=freezer.layers).costs


def test_a_freeze_saves_from_the_next_step_on_and_a_thaw_costs_from_its_step_on() -> None:
    events = [(0, "freeze", "0"), (3, "freeze", "1"), (5, "thaw", "0"), (5, "thaw", "1")]
    prices = {frozenset(): 1.0, frozenset("0"): 0.5, frozenset("01"): 0.25}
    spent = [
        compute_spent(events, steps, lambda frozen: prices[frozenset(frozen)]) for steps in range(8)
    ]
    assert spent == [0, 1, 1.5, 2, 2.5, 2.75, 3.75, 4.75]


def test_a_run_and_its_budget_agree_on_what_was_spent() -> None:
    """Thaws between two steps, before the step is counted and after it, included."""
    model = net()
    freezer = Freezer(model, SGD(model.parameters(), 0.1), Scripted({0: ["0"], 3: ["0", "1"]}))
    budget = ComputeBudget(freezer, steps=100)
    frozen = freezer.costs(["0"])
    for steps, expected in ((1, 1), (2, 1 + frozen)):
        train(freezer, 1, budget)
        assert freezer.compute_spent == pytest.approx(expected)
        assert steps == freezer.steps
    freezer.thaw(freezer.layers[:1])
    train(freezer, 2, budget)
    expected += 2  # step 3 freezes both layers
    assert freezer.compute_spent == pytest.approx(expected)
    train(freezer, 1)
    freezer.thaw(freezer.layers[1:2])
    budget.step()
    train(freezer, 1, budget)
    expected += freezer.costs(["0", "1"]) + frozen
    assert freezer.compute_spent == pytest.approx(expected)
    assert 100 * budget.spent == pytest.approx(expected)

    again = net()
    resumed = Freezer(again, SGD(again.parameters(), 0.1), Scripted({}))
    resumed.load_state_dict(freezer.state_dict())
    train(resumed, 1)
    assert resumed.compute_spent == pytest.approx(expected + frozen)


def test_states_of_versions_without_events_tell_what_was_spent() -> None:
    model = net()
    freezer = Freezer(model, SGD(model.parameters(), 0.1), Scripted({1: ["0"]}))
    train(freezer, 4)
    state = freezer.state_dict()
    del state["events"]
    freezer.load_state_dict(state)
    assert freezer.compute_spent == pytest.approx(2 + 2 * freezer.costs(["0"]))
