"""wandb: off unless asked; one run a cell, grouped by table and workload, typed by method."""

import dataclasses
from collections.abc import Callable

from experiments.config import RunConfig
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves

METRICS = ("loss", "accuracy", "frozen_fraction", "tflops", "memory_gib", "seconds")


def start_tracking(config: RunConfig, table: str, label: str) -> tuple[Callable, Callable]:
    """Starts a wandb run; ``WANDB_MODE=offline`` needs no account.

    Args:
        config: the run.
        table: what it is a cell of.
        label: its method in the table, which has variants: ``smartfrz raw``.

    Returns:
        What to call after each evaluation, with the run and its curves, and what to call at the
        end.

    Raises:
        ValueError: wandb can't be had: no account, no network.
    """
    import wandb

    try:
        tracked = wandb.init(
            project="smartfrz",
            id=config.id,
            resume="allow",
            group=f"{table}/{config.model}-{config.dataset}",
            job_type=label,
            name=f"{config.model} {config.dataset} {label} seed {config.seed}",
            config={"table": table, **dataclasses.asdict(config), "method": label},
        )
    except wandb.Error as error:
        raise ValueError(f"wandb: {error} Log in, or set WANDB_MODE=offline.") from error

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
