"""Memory of a step as layers freeze (Figure 5a), replayed from the freezing steps of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_map

from experiments.data.batches import Batch
from experiments.methods import make_config
from experiments.reporting.labels import display_name
from experiments.runs.peak_memory import peak_memory, reset_peak_memory
from experiments.runs.setup import Run, prepare
from experiments.runs.training_loop import Curves, train_step
from smartfrz import fold_batch_norms, restore_memory, save_memory, unfold_batch_norms
from smartfrz.memory import activation_bytes


def memory_over_time(record: Mapping[str, Any]) -> pd.DataFrame:
    """Measures the memory of a step before the first freeze and after each freeze.

    On a GPU this is the allocator's peak during a step. On a CPU it is counted: weights, running
    statistics, gradients, momentum, and the activations saved for the backward pass.

    Args:
        record: contents of the run file of a finished run.

    Returns:
        ``model``, ``dataset``, ``seed``, ``epoch``, and bytes: ``stock``, with PyTorch's own
        freezing; ``saved``, with `save_memory`; ``folded``, with `save_memory` and
        `fold_batch_norms`, which keeps the folded weights in addition to the others. A row per
        freezing event, and one at the end of the run.
    """
    config = make_config(record["config"])
    # The steps are taken from the record, and memory does not depend on the weights.
    run = prepare(dataclasses.replace(config.full_training, pretraining=None))
    run.model.train()
    example = tree_map(lambda tensor: tensor.to(run.device), run.batches.example())
    batch = next(run.batches.epoch(config.seed, 0))
    frozen: dict[str, int] = {}
    rows = []
    for step in [0, *sorted(set(record["frozen"].values())), record["steps"]]:
        frozen |= {name: at for name, at in record["frozen"].items() if at == step}
        run.freezer.load_state_dict({"step": step, "frozen": dict(frozen), "policy": {}})
        unfold_batch_norms(run.model)
        sizes = {"stock": step_bytes(run, batch)}
        save_memory(run.model)
        sizes["saved"] = step_bytes(run, batch)
        # Folding again makes the count include the folded weights.
        fold_batch_norms(run.model, example)
        sizes["folded"] = step_bytes(run, batch)
        restore_memory(run.model)
        rows.append({"epoch": step / record["steps_per_epoch"], **sizes})
    where = {"model": config.model, "dataset": config.dataset, "seed": config.seed}
    return pd.DataFrame([where | row for row in rows])


def step_bytes(run: Run, batch: Batch) -> int:
    """Returns the memory of a step in bytes, see `memory_over_time`."""
    if run.device.type == "cuda":
        train_step(run, Curves(), batch)
        reset_peak_memory(run.device)
        train_step(run, Curves(), batch)
        return peak_memory(run.device)
    params, buffers = list(run.model.parameters()), list(run.model.buffers())
    trained = sum(param.nbytes for param in params if param.requires_grad)

    def forward() -> torch.Tensor:
        with run.autocast():
            return run.forward(batch.inputs, batch.keys)

    kept = activation_bytes(forward, [*params, *buffers])
    momentum = trained * (2 if run.config.optimizer == "adamw" else 1)
    return sum(tensor.nbytes for tensor in params + buffers) + trained + momentum + kept


def caption(frame: pd.DataFrame, measured_on_gpu: bool) -> str:
    """Returns the caption of Figure 5a, with the memory saved at the end and over the run."""
    how = (
        "the allocator's peak"
        if measured_on_gpu
        else "weights, gradients, momentum and activations saved for the backward pass, counted"
    )
    saved = [_saved(str(model), of_model) for model, of_model in frame.groupby("model", sort=False)]
    return (
        f"Memory of a step as layers freeze: {how}. Thin lines: further seeds; dashed: full "
        "training. Savings relative to full training with PyTorch's kernels, at the end and on "
        f"average over the run, means over seeds. {' '.join(saved)}"
    )


def _saved(model: str, frame: pd.DataFrame) -> str:
    runs = [each for _, each in frame.groupby("seed")]
    parts = []
    for column, name in (
        *(("stock", "PyTorch's freezing"), ("saved", "with save_memory")),
        ("folded", "with batch norms folded as well (more memory, less time)"),
    ):
        full = [run["stock"].iloc[0] for run in runs]
        last = [1 - run[column].iloc[-1] / size for run, size in zip(runs, full, strict=True)]
        mean = [1 - mean_memory(run, column) / size for run, size in zip(runs, full, strict=True)]
        parts.append(f"{name} {sum(last) / len(last):.0%} and {sum(mean) / len(mean):.0%}")
    return f"{display_name(model)}: {', '.join(parts)}."


def mean_memory(run: pd.DataFrame, column: str) -> float:
    """Returns the mean over the duration of one run."""
    lengths = run["epoch"].diff().shift(-1).fillna(0)
    return float((run[column] * lengths).sum() / lengths.sum())
