"""Optional tracking with wandb: one wandb run per cell, grouped by table and workload."""

import dataclasses
from collections.abc import Callable
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.runs.setup import Run
from experiments.runs.training_loop import Curves

METRICS = ("loss", "accuracy", "frozen_fraction", "compute", "tflops", "memory_gib", "seconds")

LAYERS = "layers"
"""Key of the picture of a run: which layers froze when."""


def start_tracking(config: RunConfig, table: str, label: str) -> tuple[Callable, Callable]:
    """Starts a wandb run; ``WANDB_MODE=offline`` requires no account.

    Args:
        config: the run.
        table: the table that contains it.
        label: its method in the table, including the variant's label: ``smartfrz raw``. It is the
            job type.

    Returns:
        A callback for each evaluation, which takes the run and its curves, and a callback for the
        end of the run.

    Raises:
        UserError: wandb is not available, for example without an account or a network.
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
        raise UserError(f"wandb: {error} Log in, or set WANDB_MODE=offline.") from error

    def log(run: Run, curves: Curves) -> None:
        is_over = run.is_over(curves.step)
        picture = {LAYERS: wandb.Image(_image(run.freezer.plot()))} if is_over else {}
        tracked.log(metrics(run, curves) | picture, step=curves.step)

    return log, tracked.finish


def metrics(run: Run, curves: Curves) -> dict[str, float]:
    """The values to log after an evaluation, by their names in `METRICS`.

    ``compute`` is the compute so far as a fraction of full training's.
    """
    return {
        "loss": curves.loss[-1],
        "accuracy": curves.accuracy[-1],
        "frozen_fraction": curves.frozen_fraction[-1],
        "compute": curves.flops / (run.full_flops_per_step * run.total_steps),
        "tflops": curves.flops / 1e12,
        "memory_gib": curves.peak_memory_bytes / 2**30,
        "seconds": curves.train_seconds,
    }


def _image(figure: Figure) -> Image.Image:
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    drawn.seek(0)
    return Image.open(drawn)
