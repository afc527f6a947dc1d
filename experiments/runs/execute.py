"""Execution of single runs, and the content of their run files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config import RunConfig
from experiments.files import cache_folder, set_aside, set_damaged_aside, write_json_atomic
from experiments.models.weights import has_weights, save_weights
from experiments.runs.provenance import code_hash, provenance
from experiments.runs.run_files import parse_run, read_run, sealed
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves, OnStep, diverged, train
from smartfrz.distributed import unwrap

NOT_RECORDED = "not recorded"
"""The code of run files that are older than the record of it."""


def execute(
    config: RunConfig,
    runs: Path,
    command: str,
    on_step: OnStep,
    on_epoch: OnStep,
    keep_weights: bool = False,
) -> None:
    """Trains a run to its end and writes its run file.

    Args:
        config: the run.
        runs: the folder of the run files.
        command: the user's command, which the run file records.
        on_step: called after every step.
        on_epoch: called after every evaluation.
        keep_weights: whether to store the final weights in the cache, for runs that are
            initialised from them.
    """
    origin = provenance(command)  # before training, during which the files may change
    run, curves = train(config, on_step, on_epoch)
    if not run.is_main:
        return
    if keep_weights and not diverged(curves):
        save_weights(config, unwrap(run.model), curves.accuracy[-1])
    _set_old_aside(run_file(config, runs))
    write_json_atomic(run_file(config, runs), sealed(record(run, curves, origin)))
    (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)


def _set_old_aside(file: Path) -> None:
    """Sets aside a run file that is damaged or of other code, before it is written again."""
    set_damaged_aside(file, parse_run)
    if (old := code_of(file)) not in (None, code_hash()):
        set_aside(file, f"the code {old} computed it, and this is {code_hash()}", "stale")


def code_of(file: Path) -> str | None:
    """Returns the hash of the code that computed a run file; None if there is no complete file."""
    run = read_run(file)
    return None if run is None else run.get("code", NOT_RECORDED)


def is_finished(
    config: RunConfig, runs: Path, needs_weights: bool = False, by_this_code: bool = False
) -> bool:
    """Whether a run has a complete run file.

    Args:
        config: the run.
        runs: the folder of the run files.
        needs_weights: whether its final weights must be in the cache, too.
        by_this_code: whether it must have been computed by the present code.
    """
    if needs_weights and not has_weights(config):
        return False
    code = code_of(run_file(config, runs))
    return code == code_hash() if by_this_code else code is not None


def run_file(config: RunConfig, runs: Path) -> Path:
    """The path of a run's file."""
    return runs / f"{config.id}.json"


def record(run: Run, curves: Curves, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a run file: the results for tables and figures, and their provenance."""
    failed = diverged(curves)
    pretrained: dict[str, Any] = dict(run.pretrained)
    if "accuracy" in pretrained:
        pretrained["accuracy"] = float(pretrained["accuracy"])
    return {
        "id": run.config.id,
        "status": "diverged" if failed else "finished",
        "config": dataclasses.asdict(run.config),
        "metric": run.metrics[0],
        "scores": {} if failed else curves.scores,
        "final_accuracy": None if failed else curves.accuracy[-1],
        "accuracy": curves.accuracy,
        "loss": curves.loss,
        "eval_steps": curves.eval_steps,
        "frozen_fraction": curves.frozen_fraction,
        "steps": curves.step,
        "steps_per_epoch": run.batches.steps_per_epoch,
        "train_seconds": curves.train_seconds,
        "overhead_seconds": curves.overhead_seconds,
        "eval_seconds": curves.eval_seconds,
        "tflops": curves.flops / 1e12,
        "tflops_paper": curves.flops_paper / 1e12,
        "tflops_full": run.full_flops_per_step * curves.step / 1e12,
        "peak_memory_bytes": curves.peak_memory_bytes,
        "layers": [layer.name for layer in run.freezer.layers],
        "frozen": run.freezer.frozen,
        "pretrained": pretrained or None,
        **origin,
    }
