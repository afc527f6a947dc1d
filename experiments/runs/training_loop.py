"""The training loop of a run, which resumes from its last checkpoint."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from experiments.config import RunConfig
from experiments.data.batches import Batch
from experiments.data.metrics import score
from experiments.errors import UserError
from experiments.files import DamagedFileError, cache_folder
from experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from experiments.runs.peak_memory import peak_memory, reset_peak_memory
from experiments.runs.setup import Run, prepare
from smartfrz.cost import extra_compute
from smartfrz.distributed import gathered, world_size
from smartfrz.graph import call

OnStep = Callable[[Run, "Curves"], None]


@dataclass
class Curves:
    """The measurements of a run so far, which are part of its checkpoint.

    ``accuracy`` (the data set's first metric), ``loss`` and ``frozen_fraction`` have one entry per
    evaluation, at ``eval_steps``; ``scores`` are all metrics of the last evaluation. Times are host
    times: on a GPU, ``overhead_seconds``, the time in the freezer, includes waiting for the
    backward pass whose gradients it reads. ``flops`` is the total of all steps and processes,
    with the policy's own forward passes.
    """

    step: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    frozen_fraction: list[float] = field(default_factory=list)
    eval_steps: list[int] = field(default_factory=list)
    train_seconds: float = 0.0
    overhead_seconds: float = 0.0
    eval_seconds: float = 0.0
    flops: int = 0
    flops_paper: int = 0
    peak_memory_bytes: int = 0


def train(config: RunConfig, on_step: OnStep, on_epoch: OnStep) -> tuple[Run, Curves]:
    """Trains a run until it ends or its loss is not finite, from its last checkpoint if any.

    Args:
        config: the run.
        on_step: called after every step; its time counts as training time.
        on_epoch: called after every evaluation.

    Returns:
        The finished run, including its model, and its measurements.
    """
    checkpoint = cache_folder("checkpoints") / f"{config.id}.pt"
    run, curves = resume(config, checkpoint)
    while not run.is_over(curves.step) and not diverged(curves):
        train_epoch(run, curves, on_step)
        evaluate_epoch(run, curves)
        on_epoch(run, curves)
        state = {"run": run.state_dict(), "curves": vars(curves)}  # collective: all processes
        if run.is_main:
            save_checkpoint(state, checkpoint)
    return run, curves


def resume(config: RunConfig, checkpoint: Path) -> tuple[Run, Curves]:
    """Restores a run from its checkpoint, or prepares it if there is none.

    A damaged checkpoint, or one that was saved by other code, is set aside, see `load_checkpoint`.

    Args:
        config: the run.
        checkpoint: the file.

    Raises:
        UserError: the checkpoint is from another number of processes; the run's outcome would
            depend on the interruption.
    """
    run = prepare(config)
    saved = load_checkpoint(checkpoint, partial(_check_state, run))
    if saved is None:
        return run, Curves()
    begun_by = len(saved["run"]["rngs"])
    if begun_by != world_size():
        raise UserError(
            f"The checkpoint of {config.cell} is from {begun_by} processes and cannot be resumed "
            f"with {world_size()}: continue with GPUS={begun_by}, or delete {checkpoint}."
        )
    run.load_state_dict(saved["run"])
    return run, Curves(**saved["curves"])


def _check_state(run: Run, state: Any) -> None:
    """Raises DamagedFileError unless a state has the keys of this run's state."""
    own = run.own_state()
    expected = [{"run", "curves"}, {*own, "rngs"}, own["model"], vars(Curves())]
    try:
        found = [state, state["run"], state["run"]["model"], state["curves"]]
    except (TypeError, KeyError) as error:
        raise DamagedFileError("it is not the state of a run") from error
    for mine, theirs in zip(expected, found, strict=True):
        if set(mine) != set(theirs):
            odd = ", ".join(sorted(set(mine) ^ set(theirs))[:3])
            raise DamagedFileError(f"it is not the state of this run: {odd} missing or unknown")


def diverged(curves: Curves) -> bool:
    """Whether the loss of the last epoch is infinite or NaN."""
    return bool(curves.loss) and not math.isfinite(curves.loss[-1])


def train_epoch(run: Run, curves: Curves, on_step: OnStep) -> None:
    """Trains for one epoch, or for the rest of the run if that is shorter."""
    reset_peak_memory(run.device)
    run.model.train()
    epoch = curves.step // run.batches.steps_per_epoch
    batches = run.batches.epoch(run.config.seed, epoch)
    losses = []
    started = run.clock()
    for batch in batches:
        losses.append(train_step(run, curves, batch))
        curves.step += 1
        on_step(run, curves)
        if run.is_over(curves.step):
            break
    curves.train_seconds += run.clock() - started
    curves.loss.append(run.mean_over_processes(losses))
    curves.peak_memory_bytes = max(curves.peak_memory_bytes, peak_memory(run.device))


def train_step(run: Run, curves: Curves, batch: Batch) -> Tensor:
    """Executes one step; ``freezer.step`` is between the backward pass and the optimizer step."""
    run.loss = run.backward(batch)
    run.scaler.unscale_(run.optimizer)

    events, extra = len(run.freezer.events), extra_compute(run.freezer.policy)
    started = time.perf_counter()
    run.freezer.step()
    curves.overhead_seconds += time.perf_counter() - started

    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    if run.budget:
        run.budget.step()
    if run.scheduler:
        run.scheduler.step()
    extra = extra_compute(run.freezer.policy) - extra
    curves.flops += run.flops_per_step + round(extra * run.full_flops_per_step)
    curves.flops_paper += run.flops_per_step_paper + round(extra * run.full_flops_per_step_paper)
    if len(run.freezer.events) > events:
        run.count_flops()
    return run.loss


def evaluate_epoch(run: Run, curves: Curves) -> None:
    """Evaluates the run: on ``curve_images`` during training, on ``test_images`` at the end."""
    started = run.clock()
    images = 0 if run.is_over(curves.step) else run.config.curve_images
    curves.scores = test_scores(run, images)
    curves.accuracy.append(next(iter(curves.scores.values())))
    curves.eval_steps.append(curves.step)
    curves.frozen_fraction.append(len(run.freezer.frozen) / len(run.freezer.layers))
    curves.eval_seconds += run.clock() - started


@torch.no_grad()
def test_scores(run: Run, examples: int) -> dict[str, float]:
    """Computes the metrics of the run's data set on the test set.

    The processes share the examples and use the buffers of the first one, such as batch norms'
    running statistics.

    Args:
        run: the run.
        examples: number of test examples, counted from the first; 0 for all.

    Returns:
        The metrics by name, the main one first.
    """
    run.model.eval()
    for buffer in run.model.buffers() if dist.is_initialized() else ():
        dist.broadcast(buffer, 0)
    # DDP's forward pass waits for all processes, which may have different numbers of batches.
    model = run.model.module if isinstance(run.model, DistributedDataParallel) else run.model
    predictions, truth = [], []
    for inputs, labels in run.batches.test(examples, shared=True):
        with run.autocast():
            predictions.append(call(model, inputs).argmax(-1).flatten().cpu())
        truth.append(labels.flatten().cpu())
    found = gathered((predictions, truth))
    parts = [torch.cat([each for of_process in found for each in of_process[i]]) for i in (0, 1)]
    return score(parts[0], parts[1], run.metrics)
