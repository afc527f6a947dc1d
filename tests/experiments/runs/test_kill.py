"""Interrupted and killed runs: they end with the same result as uninterrupted ones."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.models.weights import weights_file
from experiments.runs.execute import execute, run_file
from experiments.runs.run_files import read_run
from experiments.tables.queue import missing_prerequisites
from tests.helpers.digits import ignore, save_random_predictor, tiny_run
from tests.helpers.processes import CONTEXT

KILLS = 3
OUTCOME = (
    *("final_accuracy", "accuracy", "loss", "eval_steps", "frozen_fraction", "frozen"),
    *("steps", "tflops", "tflops_paper", "tflops_full"),
)


class Stop(Exception):
    """An exception that stops a run."""


def run_to_the_end(config, folder: Path, on_step=ignore) -> None:
    """Executes a run and its prerequisites with a separate cache and folder, on one thread."""
    torch.set_num_threads(1)
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    for needed in missing_prerequisites([config], folder / "runs"):
        execute(needed, folder / "runs", "make test", ignore, ignore, keep_weights=True)
    execute(config, folder / "runs", "make test", on_step, ignore, keep_weights=True)


def outcome(config, folder: Path) -> tuple[dict[str, bytes], dict]:
    """The bytes of the final weights, and all measurements except times and memory."""
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    run = read_run(run_file(config, folder / "runs"))
    assert run is not None
    weights = load_file(weights_file(config))
    return (
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        {key: run[key] for key in OUTCOME},
    )


@pytest.fixture(autouse=True)
def restored_environment(monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", "set by each run")


def make_config(method, folder, **changes):
    options = {
        "smartfrz": save_random_predictor(folder / "predictor"),
        "autofreeze": {"intervals_per_epoch": 2},  # one layer freezes late
        "displacement": {"threshold": 0.01},
        "similarity": {"tolerance": 0.02},
    }
    return tiny_run(method, options=options.get(method), augment=True, **changes)


def one_step_in_each_of(epochs: int, seed: int) -> list[int]:
    """A random step in each epoch: the run is resumed after every epoch except the last."""
    draw = random.Random(seed).randint
    return [draw(10 * epoch + 1, 10 * epoch + 10) for epoch in range(epochs)]


@pytest.mark.parametrize(
    "method", ["full", "smartfrz", "autofreeze", "linear", "displacement", "similarity"]
)
def test_a_run_interrupted_at_random_steps_ends_the_same(tmp_path, method):
    config = make_config(method, tmp_path, epochs=3)
    run_to_the_end(config, tmp_path / "unbroken")
    stops = one_step_in_each_of(epochs=3, seed=sum(map(ord, method)))  # others for each method

    def stop_once(run, curves):
        if stops and curves.step >= stops[0]:
            stops.pop(0)
            raise Stop

    broken = 0
    while stops:
        with pytest.raises(Stop):
            run_to_the_end(config, tmp_path / "broken", stop_once)
        broken += 1
    run_to_the_end(config, tmp_path / "broken", stop_once)

    assert broken == 3
    weights, run = outcome(config, tmp_path / "unbroken")
    assert run["frozen"] or method == "full"
    assert outcome(config, tmp_path / "broken") == (weights, run)


def work(config, folder, progress, dies_while_saving=False) -> None:
    """Executes the run in a separate process, and reports its step in ``progress``."""

    def report(run, curves):
        progress.value = curves.step

    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    if dies_while_saving:
        os.fsync = die
    run_to_the_end(config, folder, report)


def start(config, folder, **options):
    progress = CONTEXT.Value("i", 0, lock=False)
    process = CONTEXT.Process(target=work, args=(config, folder, progress), kwargs=options)
    process.start()
    return process, progress


def kill_at(step, config, folder) -> None:
    """Sends SIGKILL once the run has completed this step."""
    process, progress = start(config, folder)
    while progress.value < step:
        assert process.exitcode is None, f"ended at step {progress.value}, before step {step}"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not run_file(config, folder / "runs").exists()


def finish(config, folder) -> None:
    process, _ = start(config, folder)
    process.join()
    assert process.exitcode == 0


def test_a_run_killed_three_times_ends_with_the_same_weights(tmp_path):
    config = make_config("smartfrz", tmp_path, epochs=5)
    finish(config, tmp_path / "unbroken")
    for step in one_step_in_each_of(epochs=KILLS, seed=0):
        kill_at(step, config, tmp_path / "killed")
    finish(config, tmp_path / "killed")

    weights, run = outcome(config, tmp_path / "unbroken")
    assert run["frozen"]
    assert outcome(config, tmp_path / "killed") == (weights, run)


def test_a_run_killed_while_it_saves_ends_with_the_same_weights(tmp_path):
    config = make_config("autofreeze", tmp_path, epochs=2)
    finish(config, tmp_path / "unbroken")
    process, progress = start(config, tmp_path / "killed", dies_while_saving=True)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert progress.value == 10
    checkpoints = tmp_path / "killed" / "cache" / "checkpoints"
    partial = f"{config.id}.pt.{process.pid}.partial"
    assert [path.name for path in checkpoints.iterdir()] == [partial]

    finish(config, tmp_path / "killed")
    assert outcome(config, tmp_path / "killed") == outcome(config, tmp_path / "unbroken")
    assert list(checkpoints.iterdir()) == []
