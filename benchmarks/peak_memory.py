"""Peak memory of a step on a GPU, from its allocator: ``python -m benchmarks.peak_memory``.

Layers are frozen from the front or scattered, as for step times. Weights and gradients are
included, the state of an optimizer is not.
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
    "fraction": "Share of forward FLOPs",
    "full": "Full training (GiB)",
    "compute_over_full": "Compute / full",
    "stock_over_full": "PyTorch / full",
    "ours_over_full": "Ours / full",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("peak_memory", __doc__).parse_args()
    if not torch.cuda.is_available():
        print(
            "Not measured: the allocator's peak needs a GPU. Use benchmarks.saved_activations on "
            "a CPU."
        )
        return
    present(
        "peak_memory",
        options,
        lambda: measure(options.models),
        COLUMNS,
        f"Peak memory of a step with part of the network frozen, in batches of {LARGE}. Ours: with "
        "fold_batch_norms and save_memory.",
    )


def measure(models: list[str]) -> pd.DataFrame:
    """Measures each network, layout and frozen fraction; a row for each."""
    rows = []
    for model in tqdm(models, desc="peak memory"):
        gc.collect()  # reference cycles would keep the previous model in memory
        workload = as_in_table_2(model, LARGE)
        fold_batch_norms(workload.model, workload.inputs)
        for layout in LAYOUTS:
            for fraction in FRACTIONS:
                row = {"model": model, "layout": layout, "fraction": fraction}
                rows.append({**row, **peaks(workload, layout, fraction)})
    return pd.DataFrame(rows)


def peaks(workload: Workload, layout: str, fraction: float) -> dict[str, float]:
    """Measures a step without freezing, with PyTorch's freezing and with ours; GiB and ratios."""
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
    """Returns the allocator's peak during the second of two steps, in GiB."""
    device = workload.inputs.device
    for _ in range(2):
        workload.model.zero_grad()
        reset_peak_memory(device)
        workload.loss().backward()
    return peak_memory(device) / 2**30


if __name__ == "__main__":
    main()
