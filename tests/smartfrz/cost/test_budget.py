"""A budget of compute: what is spent, and runs that end with it."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.config import RunConfig
from experiments.runs import setup
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, train
from smartfrz import ComputeBudget, Freezer
from smartfrz.cost.flops import training_flops
from smartfrz.graph.tracing import trace
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.scripted import Scripted

STEPS, BUDGET = 40, 0.6


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def freezer_of(model: nn.Module, schedule: dict[int, list[str]]) -> Freezer:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Freezer(model, optimizer, Scripted(schedule))


def step(model: nn.Module, freezer: Freezer, budget: ComputeBudget) -> None:
    model(torch.ones(1, 2)).sum().backward()
    freezer.step()
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
    """MACs of the three layers: 16, 64 and 16; forward, and for each gradient once more."""
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
    budget = ComputeBudget(freezer, steps=10)
    step(model, freezer, budget)
    assert 10 * budget.spent == pytest.approx((3 * 96 - 2 * 16 - 64) / (3 * 96))


def test_what_is_in_no_layer_goes_on_costing() -> None:
    """A layer that the freezer was not given trains on, whatever is frozen."""
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
    with pytest.raises(ValueError, match="pays for no training"):
        ComputeBudget(freezer_of(net(), {}), steps)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers freeze at step 3, all others but the head at step 12."""

    def make_policy(config: RunConfig, model: nn.Module, *_: object) -> Scripted:
        names = [name for name, _ in model.named_modules()]
        return Scripted({3: names[:3], 12: names})

    monkeypatch.setattr(setup, "make_policy", make_policy)


def config_of(budget: float | None, method: str = "smartfrz", **changes: object) -> RunConfig:
    return tiny_run(method, **{"epochs": STEPS // 10, "budget": budget, **changes})


def rates_of(config: RunConfig) -> tuple[Run, Curves, list[float], list[float]]:
    """What a run trained with, and what it had spent, after each step."""
    rates, spent = [], []

    def note(run: Run, curves: Curves) -> None:
        rates.append(run.optimizer.param_groups[0]["lr"])
        spent.append(curves.flops / (BUDGET * STEPS * run.full_flops_per_step))

    return *train(config, note, ignore), rates, spent


@pytest.mark.usefixtures("scripted")
def test_a_run_makes_more_steps_of_it_and_its_learning_rate_follows() -> None:
    run, curves, rates, spent = rates_of(config_of(BUDGET))
    assert curves.step > BUDGET * STEPS and curves.step == curves.eval_steps[-1]
    assert spent[-1] == pytest.approx(1, abs=0.03)
    assert len(run.freezer.frozen) == len(run.freezer.layers) - 1
    cosine = [run.config.lr * 0.5 * (1 + math.cos(math.pi * min(1, part))) for part in spent]
    assert rates == pytest.approx(cosine, abs=1e-9)


def test_without_freezing_it_is_shorter_training() -> None:
    within, shorter = config_of(BUDGET, "full"), config_of(None, "full", epochs=BUDGET * STEPS / 10)
    runs = [train(config, ignore, ignore) for config in (within, shorter)]
    assert runs[0][1].loss == pytest.approx(runs[1][1].loss)
    assert runs[0][1].step == runs[1][1].step == BUDGET * STEPS


def test_the_warmup_is_a_part_of_it() -> None:
    rates = [
        rates_of(config_of(budget, "full", epochs=epochs, warmup=0.25))[2]
        for budget, epochs in ((0.5, 4), (None, 2))
    ]
    assert rates[0] == pytest.approx(rates[1], abs=1e-9)


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("stop", [5, 15, 25])
def test_resumed_a_run_ends_as_an_unbroken_one(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, unbroken_curves = train(config_of(BUDGET), ignore, ignore)
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "broken"))

    def interrupt(run: Run, curves: Curves) -> None:
        if curves.step == stop:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config_of(BUDGET), interrupt, ignore)
    resumed, curves = train(config_of(BUDGET), ignore, ignore)
    assert curves.step == unbroken_curves.step and curves.flops == unbroken_curves.flops
    assert curves.loss == unbroken_curves.loss
    weights, expected = resumed.model.state_dict(), unbroken.model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("budget", "method", "said"),
    [
        (0.0, "smartfrz", "part of full training's compute"),
        (1.1, "smartfrz", "part of full training's compute"),
        (0.5, "linear", "goes by a schedule of steps"),
        (0.5, "random", "goes by a schedule of steps"),
    ],
)
def test_a_budget_that_makes_no_sense_is_an_error(budget: float, method: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(budget, method)


def test_runs_without_a_budget_keep_their_ids() -> None:
    assert tiny_run("smartfrz", budget=None).id == tiny_run("smartfrz").id
    assert tiny_run("smartfrz", budget=0.5).id != tiny_run("smartfrz").id
