"""Tests of the compute budget."""

import pytest
import torch
from torch import nn

from smartfrz import ComputeBudget, Freezer
from smartfrz.cost.flops import training_flops
from smartfrz.graph.tracing import trace
from tests.helpers.scripted import Scripted


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def freezer_of(model: nn.Module, schedule: dict[int, list[str]]) -> Freezer:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Freezer(model, optimizer, Scripted(schedule))


def step(model: nn.Module, freezer: Freezer, budget: ComputeBudget) -> None:
    model(torch.ones(1, 2)).sum().backward()
    freezer.step()
    freezer.optimizer.zero_grad()
    budget.step()


def test_with_nothing_frozen_it_is_spent_after_so_many_steps() -> None:
    model = net()
    freezer = freezer_of(model, {})
    budget, spent = ComputeBudget(freezer, steps=5), []
    while not budget.is_spent:
        spent.append(budget.spent)
        step(model, freezer, budget)
    assert spent == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and budget.spent == 1


def test_steps_are_paid_by_what_trains_in_them() -> None:
    """MACs of the three layers are 16, 64 and 16, forward and again for each gradient."""
    model = net()
    freezer = freezer_of(model, {1: ["0"], 2: ["1"]})
    budget, spent = ComputeBudget(freezer, steps=4), []
    for _ in range(4):
        step(model, freezer, budget)
        spent.append(4 * budget.spent)
    full, without_first, head_alone = 3 * 96, 3 * 96 - 2 * 16 - 64, 96 + 16
    costs = [full, full, without_first, head_alone]
    assert spent == pytest.approx([sum(costs[: i + 1]) / full for i in range(4)])
    calls = trace(model, torch.ones(1, 2))
    assert head_alone * 2 == training_flops(calls, list(model[2].parameters()))


def test_it_ends_at_the_nearest_step() -> None:
    for steps, expected in ((2.4, 2), (2.6, 3)):
        model = net()
        freezer = freezer_of(model, {})
        budget, taken = ComputeBudget(freezer, steps), 0
        while not budget.is_spent:
            step(model, freezer, budget)
            taken += 1
        assert taken == expected


def test_resumed_it_goes_on() -> None:
    model, schedule = net(), {1: ["0"]}
    freezer = freezer_of(model, schedule)
    budget = ComputeBudget(freezer, steps=9)
    for _ in range(3):
        step(model, freezer, budget)
    again = net()
    resumed = freezer_of(again, schedule)
    other = ComputeBudget(resumed, steps=9)
    resumed.load_state_dict(freezer.state_dict())
    other.load_state_dict(budget.state_dict())
    for parts in ((model, freezer, budget), (again, resumed, other)):
        step(*parts)
    assert other.spent == budget.spent


def test_what_was_frozen_before_costs_nothing_from_the_start() -> None:
    model = net()
    freezer = freezer_of(model, {0: ["0"]})
    model(torch.ones(1, 2)).sum().backward()
    freezer.step()
    freezer.optimizer.zero_grad()
    budget = ComputeBudget(freezer, steps=10)
    step(model, freezer, budget)
    assert 10 * budget.spent == pytest.approx((3 * 96 - 2 * 16 - 64) / (3 * 96))


def test_what_is_in_no_layer_goes_on_costing() -> None:
    """A layer that was not passed to the freezer always trains."""
    model = net()
    first, *_ = freezer_of(model, {}).layers
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}), [first])
    budget = ComputeBudget(freezer, steps=10)
    step(model, freezer, budget)
    step(model, freezer, budget)
    assert 10 * budget.spent == pytest.approx(1 + (3 * 96 - 2 * 16 - 64) / (3 * 96))


@pytest.mark.parametrize("steps", [0, -1.0])
def test_a_budget_for_nothing_is_an_error(steps: float) -> None:
    with pytest.raises(ValueError, match="positive number of steps"):
        ComputeBudget(freezer_of(net(), {}), steps)
