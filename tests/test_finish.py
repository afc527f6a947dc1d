"""A run that ends early, once only its head trains."""

from pathlib import Path

import pytest
import torch
from digits import ignore, tiny_run
from scripted import Scripted
from torch import nn

from experiments import setup
from experiments.config import RunConfig
from experiments.setup import Run
from experiments.train import Curves, train
from smartfrz import Freezer

STEPS, LAST_FREEZE = 40, 12


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers freeze at step 3, all others but the head at step 12."""
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))

    def make_policy(config: RunConfig, model: nn.Module, *_: object) -> Scripted:
        names = [name for name, _ in model.named_modules()]
        return Scripted({3: names[:3], LAST_FREEZE: names})

    monkeypatch.setattr(setup, "make_policy", make_policy)


def config_of(finish: float | None) -> RunConfig:
    options = {} if finish is None else {"finish": finish}
    return tiny_run("smartfrz", epochs=STEPS // 10, options=options)


def rates_of(config: RunConfig) -> tuple[Run, Curves, list[float]]:
    rates = []

    def note(run: Run, curves: Curves) -> None:
        rates.append(run.optimizer.param_groups[0]["lr"])

    return *train(config, note, ignore), rates


def test_the_head_trains_for_a_part_of_the_run_and_the_learning_rate_falls_to_zero() -> None:
    whole, whole_curves, whole_rates = rates_of(config_of(None))
    run, curves, rates = rates_of(config_of(0.25))
    assert whole.freezer.only_head_trains and run.freezer.only_head_trains
    assert run.freezer.frozen == whole.freezer.frozen
    assert whole_curves.step == STEPS
    assert curves.step == curves.eval_steps[-1] == LAST_FREEZE + 1 + STEPS / 4
    assert rates[: LAST_FREEZE + 1] == whole_rates[: LAST_FREEZE + 1]
    begin, *rest = rates[LAST_FREEZE:]
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(1, 11).double() / 10))
    assert rest == pytest.approx((begin * cosine).tolist(), abs=1e-9)
    assert curves.flops < whole_curves.flops


def test_a_run_that_is_about_to_end_anyway_stays_as_it_is() -> None:
    rest = STEPS - LAST_FREEZE - 1
    run, curves, rates = rates_of(config_of((rest + 1) / STEPS))
    _, _, whole_rates = rates_of(config_of(None))
    assert curves.step == STEPS and run.finishing_since is None
    assert rates == whole_rates


@pytest.mark.parametrize("stop", [5, 15, 19, 22])
def test_resumed_it_ends_as_an_unbroken_one(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, unbroken_curves = train(config_of(0.25), ignore, ignore)
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "broken"))

    def interrupt(run: Run, curves: Curves) -> None:
        if curves.step == stop:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config_of(0.25), interrupt, ignore)
    resumed, curves = train(config_of(0.25), ignore, ignore)
    assert curves.step == unbroken_curves.step < STEPS
    assert curves.loss == unbroken_curves.loss and curves.flops == unbroken_curves.flops
    weights, expected = resumed.model.state_dict(), unbroken.model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_freezer_says_when_only_the_head_trains() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, Scripted({1: ["0"], 2: ["1", "2"]}))
    said = []
    for _ in range(4):
        said.append(freezer.only_head_trains)
        model(torch.ones(1, 2)).sum().backward()
        freezer.step()
    assert said == [False, False, False, True]


@pytest.mark.parametrize("finish", [0.0, -0.1, 1.1])
def test_a_part_that_is_none_is_an_error(finish: float) -> None:
    with pytest.raises(ValueError, match="finish is a part of the run"):
        config_of(finish)


def test_runs_that_do_not_end_early_keep_their_ids() -> None:
    assert tiny_run("smartfrz", options={"finish": None}).id == tiny_run("smartfrz").id
    assert tiny_run("smartfrz", options={"finish": 0.1}).id != tiny_run("smartfrz").id
