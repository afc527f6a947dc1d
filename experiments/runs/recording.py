"""Recorded runs: recording layer histories and storing them in the cache."""

from dataclasses import fields
from pathlib import Path

from safetensors.torch import load_file, save_file

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import (
    DamagedFileError,
    cache_folder,
    names_in,
    replacing,
    set_damaged_aside,
    unless_damaged,
)
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, OnStep, diverged, train
from smartfrz.predictor import History, HistoryRecorder


def history_file(config: RunConfig) -> Path:
    """The file with the history of a recorded run."""
    return cache_folder("histories") / f"{config.id}.safetensors"


def load_history(config: RunConfig, size: int = 1024) -> History:
    """Loads the history of a recorded run, with ``size`` of the sampled weights per record."""
    tensors = load_file(history_file(config))
    stride = tensors["weights"].shape[2] // size
    return History(**{**tensors, "weights": tensors["weights"][..., ::stride].clone()})


def is_recorded(config: RunConfig) -> bool:
    """Whether the history of a run is in the cache, in a file that is not damaged."""
    return unless_damaged(history_file(config), _check) is not None


def _check(path: Path) -> set[str]:
    """Reads the names of a history's tensors; raises DamagedFileError if they are others."""
    names = names_in(path)
    if names != {field.name for field in fields(History)}:
        raise DamagedFileError(f"it holds {', '.join(sorted(names))}")
    return names


def record_history(config: RunConfig, on_step: OnStep) -> None:
    """Executes a run of the method ``record`` and stores its history.

    Args:
        config: the run; its pretrained weights must be in the cache.
        on_step: called after every step.

    Raises:
        UserError: the loss diverged.
    """

    def observe(run: Run, curves: Curves) -> None:
        recorder_of(run).observe_loss(run.loss.item())
        on_step(run, curves)

    run, curves = train(config, observe, lambda run, curves: None)
    if diverged(curves):
        raise UserError(
            f"{config.cell} diverged and has no usable history: lower its learning rate, or remove "
            "it from the spec."
        )
    history = recorder_of(run).history()
    set_damaged_aside(history_file(config), _check)
    with replacing(history_file(config)) as partial:
        save_file(vars(history), partial)
    (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)


def recorder_of(run: Run) -> HistoryRecorder:
    """The policy of a recording run."""
    assert isinstance(run.freezer.policy, HistoryRecorder)
    return run.freezer.policy
