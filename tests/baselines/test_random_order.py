"""Tests of random order, and of its span at matched compute."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import RandomOrder
from baselines.random_order import freeze_steps
from experiments.runs.training_loop import train
from experiments.tables.matched_compute import matched_span, mean_flops
from smartfrz import Freezer
from tests.helpers.digits import ignore, tiny_run

NAMES = [f"layer{i}" for i in range(7)]


@given(st.integers(1, 1000), st.floats(0.01, 3), st.integers(0, 5))
def test_freeze_steps_are_evenly_spaced_over_the_span(steps: int, span: float, seed: int) -> None:
    moments = freeze_steps(NAMES, steps, span, seed)
    assert sorted(moments) == NAMES
    times = list(moments.values())
    assert times == sorted(times)
    rounding = 1 + 1e-6
    assert abs(times[-1] - span * steps) <= rounding
    assert all(abs(b - a - span * steps / 7) <= rounding for a, b in pairwise(times))


def test_the_order_is_the_seed_s_and_not_the_layers() -> None:
    orders = {tuple(freeze_steps(NAMES, 100, 1, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert tuple(NAMES) not in orders
    assert freeze_steps(NAMES, 100, 1, 3) == freeze_steps(NAMES, 100, 1, 3)


def test_layers_freeze_at_their_freeze_steps_and_the_head_never() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, RandomOrder(total_steps=20, span=0.5, seed=1))
    for _ in range(20):
        model(torch.randn(2, 4)).sum().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert freezer.frozen == freeze_steps(["0", "1", "2", "3"], 20, 0.5, 1)


def test_a_resumed_policy_goes_on_with_its_freeze_steps() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    policy = RandomOrder(total_steps=20, span=0.5, seed=1)
    Freezer(model, torch.optim.SGD(model.parameters(), lr=0.1), policy).step()
    resumed = RandomOrder(total_steps=20, span=0.5, seed=1)
    resumed.load_state_dict(policy.state_dict())
    assert resumed.state_dict() == policy.state_dict()
    assert resumed.is_due(2)
    assert not resumed.is_due(1)


@pytest.mark.parametrize(
    ("model", "part"), [("residual", 0.5), ("plain", 0.7), ("attention", 0.95)]
)
def test_the_span_is_the_one_that_spends_the_budget(model: str, part: float) -> None:
    config = tiny_run("random", model=model, epochs=10)
    full = mean_flops(tiny_run("shorter", model=model)) * config.batch_size * 100 / 1e12
    span = matched_span(config, part * full)
    run = tiny_run("random", model=model, epochs=10, options={"span": span})
    _, curves = train(run, ignore, ignore)
    assert curves.flops / 1e12 == pytest.approx(part * full, rel=0.03)


def test_what_cannot_be_matched_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be matched"):
        matched_span(tiny_run("random"), 1e-9)


def test_a_span_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="span=0"):
        RandomOrder(10, 0.0)


def test_a_model_that_is_all_head_freezes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    freezer = Freezer(model, torch.optim.SGD(model.parameters(), 0.1), RandomOrder(10, 1.0))
    for _ in range(3):
        model(torch.ones(1, 4)).sum().backward()
        assert freezer.step() == []
        freezer.optimizer.zero_grad()
    assert freeze_steps([], 10, 1.0, 0) == {}
