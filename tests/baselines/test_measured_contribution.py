"""Tests of freezing by measured contribution: what is measured, what freezes, what is spent."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from baselines import MeasuredContribution
from smartfrz import Freezer
from tests.helpers.three_layers import check_resume_equals_unbroken

LAYERS, WIDTH = 6, 16


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)),
        *(nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()),
        *(nn.Linear(8 * 2 * 2, 16), nn.ReLU(), nn.Linear(16, 4)),
    ).to(memory_format=torch.channels_last)


def chain() -> nn.Sequential:
    """Linear layers of equal cost: the body's names are 0 to 5, the head's is 6."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS + 1)))


def pretrained_chain() -> nn.Sequential:
    """Each matrix has a direction that is far larger than by chance."""
    model = chain()
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(0.1).add_(0.2)
    return model


def train(freezer: Freezer, steps: range, shape: tuple[int, ...] = (3, 16, 16)) -> Freezer:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, *shape, generator=generator)
        F.cross_entropy(freezer.model(inputs), inputs.flatten(1)[:, :4].argmax(1)).backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
    return freezer


def started(model: nn.Module, policy: Any) -> Freezer:
    inputs = torch.zeros(1, WIDTH) if isinstance(model[0], nn.Linear) else torch.zeros(1, 3, 16, 16)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Freezer(model, optimizer, policy, example_inputs=inputs)


@pytest.mark.parametrize("budget", [0.45, 0.58, 0.75, 1.0])
@pytest.mark.parametrize("interval", [3, 50])
def test_the_budget_is_spent_within_a_percent(budget: float, interval: int) -> None:
    freezer = train(started(conv_net(), MeasuredContribution(interval, budget, 120)), range(120))
    assert freezer.compute_spent / 120 == pytest.approx(budget, rel=0.01)


def test_a_run_that_is_extended_spends_the_budget_of_its_new_length() -> None:
    freezer = train(started(chain(), MeasuredContribution(10, 0.75, 100)), range(50), (WIDTH,))
    freezer.policy.total_steps = 200
    train(freezer, range(50, 200), (WIDTH,))
    assert freezer.compute_spent / 200 == pytest.approx(0.75, rel=0.01)


def test_a_budget_out_of_reach_and_an_interval_of_no_steps_are_errors() -> None:
    with pytest.raises(ValueError, match=r"budget=0\.3 cannot be reached"):
        started(chain(), MeasuredContribution(10, 0.3, 100))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        MeasuredContribution(0, 0.5, 100)


@pytest.mark.parametrize(("size", "error"), [(10_000, 0.05), (100, 0.3)])
def test_the_contributions_of_all_layers_sum_up_to_the_fall_of_the_loss(
    size: int, error: float
) -> None:
    torch.manual_seed(0)
    teacher, model = (nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)) for _ in "ab")
    policy = MeasuredContribution(1000, 1.0, 1000, size)
    freezer = Freezer(model, SGD(model.parameters(), 0.01, momentum=0.9), policy)

    def loss(inputs: Tensor) -> Tensor:
        return F.mse_loss(model(inputs), teacher(inputs).detach())

    held_out = torch.randn(4096, 20)
    at_the_start = loss(held_out).item()
    for _ in range(200):
        loss(torch.randn(256, 20)).backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
    contributions = policy.contributions()
    assert set(contributions) == {"0", "2"} and min(contributions.values()) > 0
    fall = at_the_start - loss(held_out).item()
    assert fall > 0.5 * at_the_start
    assert sum(contributions.values()) == pytest.approx(fall, rel=error)


def contribute(freezer: Freezer, shares: Mapping[str, float], steps: range) -> list[str]:
    """Takes steps in which each layer of a chain contributes as stated; returns all frozen."""
    for _ in steps:
        for name, layer in freezer.model.named_children():
            if layer.weight.requires_grad:
                layer.weight.grad = torch.full_like(layer.weight, -shares[name] / WIDTH**2)
        freezer.step()
        with torch.no_grad():
            for layer in freezer.model:
                if layer.weight.requires_grad:
                    layer.weight += 1
        freezer.optimizer.zero_grad()
    return [*freezer.frozen]


@pytest.mark.parametrize(
    ("shares", "frozen"),
    [
        ([1, 1, 9, 9, 9, 9], ["0", "1"]),  # the others contribute more for their FLOPs
        ([1, 9, 1, 1, 9, 9], ["0", "1", "2", "3"]),  # 12 of 30 for more than half of the FLOPs
        ([30, 1, 1, 9, 9, 9], []),  # no front is worth less than its FLOPs
        ([0, 0, 0, 0, 0, 0], []),
        ([-1, -1, -1, -1, -1, -1], []),
        ([float("nan"), 1, 1, 1, 1, 1], ["0"]),
    ],
)
def test_the_front_freezes_that_contributes_least_for_its_flops(
    shares: list[float], frozen: list[str]
) -> None:
    freezer = started(chain(), MeasuredContribution(5, 0.58, 100))
    by_name = {str(i): share for i, share in enumerate([*shares, 100.0])}
    assert contribute(freezer, by_name, range(5)) == []
    assert contribute(freezer, by_name, range(1)) == frozen


def test_no_more_layers_freeze_than_leave_no_budget_unspent() -> None:
    shares = {str(i): float(i >= 5) for i in range(LAYERS + 1)}
    for budget, frozen in ((0.5, "01234"), (0.75, "01")):
        freezer = started(chain(), MeasuredContribution(5, budget, 100))
        assert contribute(freezer, shares, range(6)) == [*frozen]


def test_the_run_follows_the_plan_of_a_budget() -> None:
    for model, first, second in ((pretrained_chain(), "012345", "01"), (chain(), "", "")):
        freezer = started(model, MeasuredContribution(20, 0.58, 100))
        assert [*train(freezer, range(1), (WIDTH,)).frozen] == [*first]
        assert [*train(freezer, range(1, 10), (WIDTH,)).frozen] == [*second]


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_resumed_run_equals_an_unbroken_one(stop: int) -> None:
    frozen = check_resume_equals_unbroken(lambda model: MeasuredContribution(3, 0.7, 10), stop)
    assert len(set(frozen.values())) > 1
