"""Recorded trainings: made by a run, kept in the cache."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from experiments.checkpoint import set_aside
from experiments.config import RunConfig
from experiments.paths import cache_folder
from experiments.setup import Run
from experiments.train import Curves, OnStep, train
from smartfrz.labeller import History, HistoryRecorder


def history_file(config: RunConfig) -> Path:
    """Where the history of a recorded run is kept."""
    return cache_folder("histories") / f"{config.id}.safetensors"


def load_history(config: RunConfig, size: int = 1024) -> History:
    """The history of a recorded run, with ``size`` of the weights sampled in each record."""
    tensors = load_file(history_file(config))
    stride = tensors["weights"].shape[2] // size
    return History(**{**tensors, "weights": tensors["weights"][..., ::stride].clone()})


def is_recorded(config: RunConfig) -> bool:
    """Whether the history of a run is kept; one that can't be read is set aside."""
    if not history_file(config).exists():
        return False
    try:
        load_history(config)
    except (SafetensorError, TypeError) as error:
        set_aside(history_file(config), error)
        return False
    return True


def record_history(config: RunConfig, on_step: OnStep) -> None:
    """Does a run of the method ``record`` and keeps its history.

    Args:
        config: the run; the weights of its reference run are in the cache.
        on_step: called after every step.
    """

    def observe(run: Run, curves: Curves) -> None:
        recorder_of(run).observe_loss(run.loss.item())
        on_step(run, curves)

    run, _ = train(config, observe, lambda run, curves: None)
    file = history_file(config)
    partial = file.with_suffix(".partial")
    save_file(vars(recorder_of(run).history()), partial)
    partial.replace(file)
    (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)


def recorder_of(run: Run) -> HistoryRecorder:
    """The policy of a run that records."""
    assert isinstance(run.freezer.policy, HistoryRecorder)
    return run.freezer.policy
