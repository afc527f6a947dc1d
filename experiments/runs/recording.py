"""Recorded runs: recording layer histories and storing them in the cache."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from experiments.config import RunConfig
from experiments.files import cache_folder, replacing, set_aside, write_text_atomic
from experiments.predictor.model_card import recordings_table
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, OnStep, diverged, train
from smartfrz.predictor import History, HistoryRecorder

_README = """\
# Recorded runs

Data for training and evaluating convergence predictors: one safetensors file for each of the
{count} runs below, named by the run's id, {megabytes:,.0f} MB in total. `{command}` records the
missing ones; existing files are kept. Each file contains R records of L layers (all but the head)
in execution order:

| tensor | shape | content |
|---|---|---|
| `weights` | (R, L, sampled weights) | tailored weights (Section 3.2 of the paper) |
| `cka` | (R, L) | CKA between the layer's output and its output at the last record |
| `gradient` | (R, L) | L1 norm of the gradient summed since the previous record |
| `loss` | (R,) | mean training loss since the previous record |

{table}
"""


def history_file(config: RunConfig) -> Path:
    """The file with the history of a recorded run."""
    return cache_folder("histories") / f"{config.id}.safetensors"


def load_history(config: RunConfig, size: int = 1024) -> History:
    """Loads the history of a recorded run, with ``size`` of the sampled weights per record."""
    tensors = load_file(history_file(config))
    stride = tensors["weights"].shape[2] // size
    return History(**{**tensors, "weights": tensors["weights"][..., ::stride].clone()})


def is_recorded(config: RunConfig) -> bool:
    """Whether the history of a run is in the cache; an unreadable file is set aside."""
    if not history_file(config).exists():
        return False
    try:
        with safe_open(history_file(config), "pt") as file:
            return set(file.keys()) == {field.name for field in fields(History)}
    except SafetensorError as error:
        set_aside(history_file(config), error)
        return False


def record_history(config: RunConfig, on_step: OnStep) -> None:
    """Executes a run of the method ``record`` and stores its history.

    Args:
        config: the run; its pretrained weights must be in the cache.
        on_step: called after every step.

    Raises:
        ValueError: the loss diverged.
    """

    def observe(run: Run, curves: Curves) -> None:
        recorder_of(run).observe_loss(run.loss.item())
        on_step(run, curves)

    run, curves = train(config, observe, lambda run, curves: None)
    if diverged(curves):
        raise ValueError(
            f"{config.cell} diverged and has no usable history: lower its learning rate, or remove "
            "it from the spec."
        )
    history = recorder_of(run).history()
    with replacing(history_file(config)) as partial:
        save_file(vars(history), partial)
    (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)


def recorder_of(run: Run) -> HistoryRecorder:
    """The policy of a recording run."""
    assert isinstance(run.freezer.policy, HistoryRecorder)
    return run.freezer.policy


def write_readme(recordings: Sequence[RunConfig], command: str) -> None:
    """Writes a README about the histories into their folder.

    Args:
        recordings: the runs, all of them recorded.
        command: the command that records them, ``make <spec> ...``.
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
