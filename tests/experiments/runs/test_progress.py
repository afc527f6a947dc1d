"""Time estimates of runs, and the progress bar of a table."""

import re

import pytest
from tqdm import tqdm

from experiments.runs import progress
from experiments.runs.progress import Estimate, TableBar, duration, estimate
from experiments.runs.training_loop import train
from tests.helpers.digits import ignore, tiny_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (89, "89 s"),
        (100, "2 min"),
        (3560, "59 min"),
        (3600, "1 h 0 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_are_said_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_run_is_estimated_by_its_steps(cache):
    short, long = tiny_run(epochs=1), tiny_run(epochs=3)
    estimates = estimate([short, long])
    assert estimates[short.id].steps == 10
    assert estimates[long.id].steps == 30
    assert estimates[long.id].seconds == pytest.approx(3 * estimates[short.id].seconds)
    assert 0 < estimates[short.id].seconds_per_step < 5
    assert not cache.exists() or not any(cache.rglob("*.*"))


def test_each_workload_is_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(progress, "_time_steps", lambda c: timed.append(c.model) or (1.0, 10))
    runs = [
        tiny_run(method, model=model, seed=seed)
        for model in ("plain", "residual")
        for seed in range(3)
        for method in ("full", "linear")
    ]
    assert len(estimate(runs)) == 12
    assert timed == ["plain", "residual"]


def test_the_estimate_does_not_need_the_pretrained_weights():
    config = tiny_run(pretraining={"dataset": "digits[0:5]", "epochs": 1})
    assert estimate([config])[config.id].steps == 30


def test_the_bar_shows_cell_epoch_frozen_fraction_and_time_left(capsys, monkeypatch):
    at_every_step = {"mininterval": 0, "miniters": 0}
    monkeypatch.setattr(progress, "tqdm", lambda **options: tqdm(**options | at_every_step))
    config = tiny_run("linear", epochs=2)
    bar = TableBar({config.id: Estimate(0.1, 20)}, quiet=False)
    train(config, bar.for_run(config), ignore)
    bar.finish_run(config)
    bar.close()
    shown = capsys.readouterr().err
    assert "residual digits[5:10] linear seed 0, epoch 1.5/2" in shown
    fractions = [int(found) for found in re.findall(r"(\d+)% frozen", shown)]
    assert fractions[0] == 0 < fractions[-1] and fractions == sorted(fractions)
    assert re.search(r" 50%\|.*\d\d:\d\d elapsed, \d\d:\d\d left", shown)
    assert re.search(r"100%\|.*00:00 left\n", shown.split("\r")[-1])


def test_the_bar_counts_runs_by_their_estimates_however_early_they_end():
    runs = [tiny_run(epochs=1), tiny_run(epochs=3)]
    bar = TableBar({runs[0].id: Estimate(1.0, 10), runs[1].id: Estimate(1.0, 30)}, quiet=False)
    seen = []
    update = bar.for_run(runs[0])

    def on_step(run, curves):
        update(run, curves)
        seen.append(bar._bar.n)

    train(runs[0], on_step, ignore)
    bar.finish_run(runs[0])
    assert seen == pytest.approx(list(range(1, 11)))
    bar.finish_run(runs[1])  # diverged at once
    assert bar._bar.n == pytest.approx(40)
    bar.close()


def test_a_quiet_bar_shows_nothing(capsys):
    config = tiny_run(epochs=1)
    bar = TableBar({config.id: Estimate(0.1, 10)}, quiet=True)
    train(config, bar.for_run(config), ignore)
    bar.finish_run(config)
    bar.close()
    assert capsys.readouterr().err == ""
