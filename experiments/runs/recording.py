"""Recorded trainings: made by a run, kept in the cache."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from experiments.config import RunConfig
from experiments.files import cache_folder, set_aside, write_text_atomic
from experiments.predictor.model_card import recordings_table
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, OnStep, diverged, train
from smartfrz.predictor import History, HistoryRecorder

_README = """\
# Recorded trainings

What predictors learn from and are judged on: a safetensors file for each of the {count} trainings
below, {megabytes:,.0f} MB in all, named by the run's id. Made again by `{command}`; a file that is
here is not made again. With R records of L layers, all but the head, in execution order:

| tensor | shape | what |
|---|---|---|
| `weights` | (R, L, sampled weights) | tailored weights (Section 3.2 of the paper) |
| `cka` | (R, L) | CKA of the layer's output to that at the last record |
| `gradient` | (R, L) | L1 norm of the gradient summed since the record before |
| `loss` | (R,) | mean training loss since the record before |

{table}
"""


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
        with safe_open(history_file(config), "pt") as file:
            return set(file.keys()) == {field.name for field in fields(History)}
    except SafetensorError as error:
        set_aside(history_file(config), error)
        return False


def record_history(config: RunConfig, on_step: OnStep) -> None:
    """Does a run of the method ``record`` and keeps its history.

    Args:
        config: the run; the weights that it starts from are in the cache.
        on_step: called after every step.

    Raises:
        ValueError: its loss diverged.
    """

    def observe(run: Run, curves: Curves) -> None:
        recorder_of(run).observe_loss(run.loss.item())
        on_step(run, curves)

    run, curves = train(config, observe, lambda run, curves: None)
    if diverged(curves):
        raise ValueError(f"{config.cell} diverged: there is nothing to learn from it.")
    file = history_file(config)
    partial = file.with_suffix(".partial")
    save_file(vars(recorder_of(run).history()), partial)
    partial.replace(file)
    (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)


def recorder_of(run: Run) -> HistoryRecorder:
    """The policy of a run that records."""
    assert isinstance(run.freezer.policy, HistoryRecorder)
    return run.freezer.policy


def write_readme(recordings: Sequence[RunConfig], command: str) -> None:
    """Says beside the histories what they are.

    Args:
        recordings: the runs, all of them recorded.
        command: what makes them again.
    """
    size = sum(history_file(config).stat().st_size for config in recordings)
    text = _README.format(
        count=len(recordings),
        megabytes=size / 1e6,
        command=command,
        table=recordings_table([{"id": c.id, **asdict(c)} for c in recordings]),
    )
    name = command.split()[1]
    write_text_atomic(cache_folder("histories") / f"{name}.md", text)
