"""wandb: off unless asked; one run a cell, grouped by table and workload, typed by method."""

import dataclasses
from collections.abc import Callable

from experiments.config import RunConfig
from experiments.setup import Run
from experiments.train import Curves

METRICS = ("loss", "accuracy", "frozen_fraction", "tflops", "memory_gib", "seconds")


def start_tracking(config: RunConfig, table: str) -> tuple[Callable, Callable]:
    """Starts a wandb run; ``WANDB_MODE=offline`` needs no account.

    Returns:
        What to call after each evaluation, with the run and its curves, and what to call at the
        end.
    """
    import wandb

    tracked = wandb.init(
        project="smartfrz",
        id=config.id,
        resume="allow",
        group=f"{table}/{config.model}-{config.dataset}",
        job_type=config.method,
        name=config.cell,
        config={"table": table, **dataclasses.asdict(config)},
    )

    def log(run: Run, curves: Curves) -> None:
        tracked.log(metrics(curves), step=curves.step)

    return log, tracked.finish


def metrics(curves: Curves) -> dict[str, float]:
    """What is logged after an evaluation, under the names in ``METRICS``."""
    return {
        "loss": curves.loss[-1],
        "accuracy": curves.accuracy[-1],
        "frozen_fraction": curves.frozen_fraction[-1],
        "tflops": curves.flops / 1e12,
        "memory_gib": curves.peak_memory_bytes / 2**30,
        "seconds": curves.train_seconds,
    }
