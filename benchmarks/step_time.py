"""Step time with frozen layers, relative to the ideal: ``python -m benchmarks.step_time``.

The ideal is the forward pass without autograd plus the backward pass of the trainable layers, each
timed separately. Layers are frozen from the front or scattered. On a GPU, both large batches and
the paper's batch size are measured.
"""

from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.figures import time_against_compute
from benchmarks.report import parser, present
from benchmarks.timing import Timed, median_ratio, seconds, take_turns
from benchmarks.workloads import LAYOUTS, Workload, as_in_table_2
from smartfrz import fold_batch_norms, restore_memory, save_memory
from smartfrz.graph import without_rules

FRACTIONS = (0.25, 0.5, 0.75)
LARGE = 256
"""Batch size that fills a large GPU; with 32 images, kernel launches limit the speed."""

COLUMNS = {
    "model": "Model",
    "layout": "Frozen",
    "fraction": "Share of forward FLOPs",
    "compute": "Compute / full",
    "stock_over_full": "PyTorch / full",
    "ours_over_full": "Ours / full",
    "stock_over_ideal": "PyTorch / ideal",
    "ours_over_ideal": "Ours / ideal",
    "lean_over_ideal": "Ours, save_memory / ideal",
}


def main() -> None:
    """Reads the command line, measures and writes the tables."""
    options = parser("step_time", __doc__).parse_args()
    title = (
        "Time of a step without the optimizer, with part of the network frozen. Ours: with "
        "fold_batch_norms; ours, save_memory: with save_memory as well."
    )
    if not torch.cuda.is_available():
        cases = {"step_time": (32, title)}
    else:
        large, small = f"{title} Batches of {LARGE}.", f"{title} Batches of 32, as in the paper."
        cases = {"step_time": (LARGE, large), "small_steps": (32, small)}
    for name, (batch_size, caption) in cases.items():
        measured = partial(measure, options.models, options.repeats, batch_size)
        present(name, options, measured, COLUMNS, caption, time_against_compute)


def measure(models: list[str], repeats: int, batch_size: int = 32) -> pd.DataFrame:
    """Measures each network, layout and frozen fraction; a row for each."""
    cases = [(model, layout, part) for model in models for layout in LAYOUTS for part in FRACTIONS]
    rows = []
    workload = None
    for model, layout, fraction in tqdm(cases, desc="step time"):
        if workload is None or workload.name != model:
            workload = as_in_table_2(model, batch_size)
            fold_batch_norms(workload.model, workload.inputs)
        case = {"model": model, "layout": layout, "fraction": fraction}
        rows.append({**case, **step_times(workload, layout, fraction, repeats)})
    return pd.DataFrame(rows)


def step_times(workload: Workload, layout: str, fraction: float, repeats: int) -> dict[str, Any]:
    """Measures a step with PyTorch's freezing, ours, and the ideal; milliseconds and ratios."""
    frozen = workload.chosen(layout, fraction)
    workload.freeze(frozen)

    def step() -> float:
        workload.model.zero_grad()
        return seconds(lambda: workload.loss().backward())

    def forward() -> float:
        with torch.no_grad():
            return seconds(workload.loss)

    def backward() -> float:
        workload.model.zero_grad()
        return seconds(workload.loss().backward)

    def full() -> float:
        workload.freeze([])
        taken = step()
        workload.freeze(frozen)
        return taken

    def stock(timed: Timed) -> Timed:
        def without_ours() -> float:
            with without_rules():
                return timed()

        return without_ours

    def lean() -> float:
        save_memory(workload.model)
        taken = step()
        restore_memory(workload.model)
        return taken

    actions = {
        "ours": step,
        "lean": lean,
        "stock": stock(step),
        "forward": stock(forward),
        "backward": stock(backward),
        "full": stock(full),
    }
    taken = take_turns(actions, repeats)
    taken["ideal"] = [a + b for a, b in zip(taken["forward"], taken["backward"], strict=True)]
    return {
        **{f"{name}_ms": 1e3 * median(times) for name, times in taken.items()},
        "compute": workload.flops(frozen) / workload.flops([]),
        **{
            f"{name}_over_{base}": median_ratio(taken[name], taken[base])
            for name in ("stock", "ours", "lean")
            for base in ("ideal", "full")
        },
    }


if __name__ == "__main__":
    main()
