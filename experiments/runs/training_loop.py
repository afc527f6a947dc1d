"""The training loop: one run, from its config to its record, resumed where it was killed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from experiments.config import RunConfig
from experiments.data.batches import Batch
from experiments.data.metrics import score
from experiments.data.registry import dataset
from experiments.files import cache_folder, set_aside
from experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from experiments.runs.peak_memory import peak_memory, reset_peak_memory
from experiments.runs.setup import Run, prepare
from smartfrz.distributed import gathered, world_size
from smartfrz.graph import call

OnStep = Callable[[Run, "Curves"], None]


@dataclass
class Curves:
    """What a run has measured so far; all of it is in the checkpoint.

    ``accuracy``, the main metric whatever it is, ``loss`` and ``frozen_fraction`` have one entry
    per evaluation, at ``eval_steps``; ``scores`` are all metrics of the last one. Seconds are host
    time, so that on a GPU ``overhead_seconds``, the freezer's, are longer by the wait for the
    backward pass that it looks at; ``flops`` are of the whole run over all processes.
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
    """Trains to the end, or until the loss is no number, from the last checkpoint if there is one.

    Args:
        config: the run.
        on_step: called after every step; on the clock, so it has to be quick.
        on_epoch: called after every evaluation.

    Returns:
        The finished run, its model included, and what it measured.
    """
    checkpoint = cache_folder("checkpoints") / f"{config.id}.pt"
    run, curves = resume(config, checkpoint)
    while not run.is_over(curves.step) and not diverged(curves):
        train_epoch(run, curves, on_step)
        evaluate_epoch(run, curves)
        on_epoch(run, curves)
        state = {"run": run.state_dict(), "curves": vars(curves)}  # of all processes
        if run.is_main:
            save_checkpoint(state, checkpoint)
    return run, curves


def resume(config: RunConfig, checkpoint: Path) -> tuple[Run, Curves]:
    """The run as its checkpoint left it; from the start where there is none that can be read.

    Raises:
        ValueError: another number of processes began it, with which it would end otherwise.
    """
    run = prepare(config)
    # On the CPU, where AdamW's step counts belong: on a GPU every step would wait for them.
    saved = load_checkpoint(checkpoint, torch.device("cpu"))
    if saved is None:
        return run, Curves()
    try:
        begun_by = len(saved["run"]["rngs"])
        if begun_by == world_size():
            run.load_state_dict(saved["run"])
            return run, Curves(**saved["curves"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        set_aside(checkpoint, error)
        return prepare(config), Curves()
    raise ValueError(
        f"{config.cell} was begun by {begun_by} processes, and would end otherwise with "
        f"{world_size()}: go on with GPUS={begun_by}, or delete {checkpoint}."
    )


def diverged(curves: Curves) -> bool:
    """Whether the loss of the last epoch was infinite or no number."""
    return bool(curves.loss) and not math.isfinite(curves.loss[-1])


def train_epoch(run: Run, curves: Curves, on_step: OnStep) -> None:
    """Trains for one epoch, or what is left of it."""
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
    """One step; the three lines that a training loop needs to freeze are in the middle."""
    with run.autocast():
        logits = run.forward(batch.inputs, batch.keys)
        loss = loss_of(logits, batch.labels)
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimizer)

    started = time.perf_counter()
    newly_frozen = run.freezer.step()
    curves.overhead_seconds += time.perf_counter() - started

    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    if run.budget:
        run.budget.step()
    if run.scheduler:
        run.scheduler.step()
    curves.flops += run.flops_per_step
    curves.flops_paper += run.flops_per_step_paper
    if newly_frozen:
        run.count_flops()
    run.loss = loss.detach()
    return run.loss


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with classes, (B,) or (B, K) of positions, or with probabilities (B, C)."""
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def evaluate_epoch(run: Run, curves: Curves) -> None:
    """Measures how good it is: on ``curve_images`` along the way, on ``test_images`` at the end."""
    started = run.clock()
    images = 0 if run.is_over(curves.step) else run.config.curve_images
    curves.scores = test_scores(run, images)
    curves.accuracy.append(next(iter(curves.scores.values())))
    curves.eval_steps.append(curves.step)
    curves.frozen_fraction.append(len(run.freezer.frozen) / len(run.freezer.layers))
    curves.eval_seconds += run.clock() - started


@torch.no_grad()
def test_scores(run: Run, examples: int) -> dict[str, float]:
    """The metrics of the run's data set on the first test examples (0 for all), the main first.

    Processes share the examples; the running statistics that they use are those of the first.
    """
    run.model.eval()
    for buffer in run.model.buffers() if dist.is_initialized() else ():
        dist.broadcast(buffer, 0)
    # DDP would wait for the others at every batch, of which they may have fewer.
    model = run.model.module if isinstance(run.model, DistributedDataParallel) else run.model
    predictions, truth = [], []
    for inputs, labels in run.batches.test(examples, shared=True):
        with run.autocast():
            predictions.append(call(model, inputs).argmax(-1).flatten().cpu())
        truth.append(labels.flatten().cpu())
    found = gathered((predictions, truth))
    parts = [torch.cat([each for of_process in found for each in of_process[i]]) for i in (0, 1)]
    return score(parts[0], parts[1], dataset(run.config.dataset).metrics)
