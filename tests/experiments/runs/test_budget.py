"""Runs that end when their compute budget is spent."""

import math
from pathlib import Path

import pytest
import torch

from experiments.config import RunConfig
from experiments.methods import Setting
from experiments.runs import setup
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, train
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.scripted import Scripted

STEPS, BUDGET = 40, 0.6


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers freeze at step 3, all others but the head at step 12."""

    def make_policy(setting: Setting) -> Scripted:
        names = [name for name, _ in setting.model.named_modules()]
        return Scripted({3: names[:3], 12: names})

    monkeypatch.setattr(setup, "make_policy", make_policy)


def config_of(budget: float | None, method: str = "smartfrz", **changes: object) -> RunConfig:
    return tiny_run(method, **{"epochs": STEPS // 10, "budget": budget, **changes})


def rates_of(config: RunConfig) -> tuple[Run, Curves, list[float], list[float]]:
    """A run, its curves, and its learning rate and spent fraction after each step."""
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
        (0.0, "smartfrz", "fraction of full training's compute"),
        (1.1, "smartfrz", "fraction of full training's compute"),
        (0.5, "linear", "fixed schedule of steps"),
        (0.5, "random", "fixed schedule of steps"),
    ],
)
def test_a_budget_that_makes_no_sense_is_an_error(budget: float, method: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(budget, method)


def test_runs_without_a_budget_keep_their_ids() -> None:
    assert tiny_run("smartfrz", budget=None).id == tiny_run("smartfrz").id
    assert tiny_run("smartfrz", budget=0.5).id != tiny_run("smartfrz").id
