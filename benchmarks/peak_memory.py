"""Peak memory of a training step on a GPU, by its allocator: ``python -m benchmarks.peak_memory``.

Layers are frozen from the front, or scattered, as for step times. With weights and gradients,
without an optimizer.
"""

import gc

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.report import parser, present
from benchmarks.step_time import FRACTIONS, LARGE
from benchmarks.workloads import LAYOUTS, Workload, as_in_table_2
from experiments.runs.peak_memory import peak_memory, reset_peak_memory
from smartfrz import fold_batch_norms, restore_memory, save_memory
from smartfrz.graph import without_rules

COLUMNS = {
    "model": "Model",
    "layout": "Frozen",
    "fraction": "Part of forward FLOPs",
    "full": "Full training (GiB)",
    "compute_over_full": "Compute / full",
    "stock_over_full": "PyTorch / full",
    "ours_over_full": "Ours / full",
}


def main() -> None:
    """Reads the command line and measures."""
    options = parser("peak_memory", __doc__).parse_args()
    if not torch.cuda.is_available():
        print("Not measured: the allocator's peak needs a GPU; saved_activations counts without.")
        return
    present(
        "peak_memory",
        options,
        lambda: measure(options.models),
        COLUMNS,
        f"Peak memory of a training step in batches of {LARGE} with part of the network frozen; "
        "ours: with fold_batch_norms and save_memory.",
    )


def measure(models: list[str]) -> pd.DataFrame:
    """A row for each network, layout and frozen fraction."""
    rows = []
    for model in tqdm(models, desc="peak memory"):
        gc.collect()  # else the model before, with its cycles, would count too
        workload = as_in_table_2(model, LARGE)
        fold_batch_norms(workload.model, workload.inputs)
        for layout in LAYOUTS:
            for fraction in FRACTIONS:
                row = {"model": model, "layout": layout, "fraction": fraction}
                rows.append({**row, **peaks(workload, layout, fraction)})
    return pd.DataFrame(rows)


def peaks(workload: Workload, layout: str, fraction: float) -> dict[str, float]:
    """GiB that a step takes without freezing, with PyTorch's own and with ours; and ratios."""
    frozen = workload.chosen(layout, fraction)
    workload.freeze([])
    with without_rules():
        full = step_gib(workload)
        workload.freeze(frozen)
        stock = step_gib(workload)
    save_memory(workload.model)
    ours = step_gib(workload)
    restore_memory(workload.model)
    return {
        **{"full": full, "stock": stock, "ours": ours},
        "compute_over_full": workload.flops(frozen) / workload.flops([]),
        **{"stock_over_full": stock / full, "ours_over_full": ours / full},
    }


def step_gib(workload: Workload) -> float:
    """The allocator's peak during a step, once one has run."""
    device = workload.inputs.device
    for _ in range(2):
        workload.model.zero_grad()
        reset_peak_memory(device)
        workload.loss().backward()
    return peak_memory(device) / 2**30


if __name__ == "__main__":
    main()
