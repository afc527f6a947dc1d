"""Runs of methods at several computes, for the table's differences, claims and figure."""

import json
from collections.abc import Mapping

import pandas as pd

Workload = tuple[str, str]
Accuracies = Mapping[str, list[float | None]]


def runs_at_computes(found: Mapping[Workload, Accuracies], **changes: object) -> pd.DataFrame:
    """Returns runs by workload and row; accuracies are in percent by seed, None for diverged."""
    rows = [
        {
            **{"model": model, "dataset": dataset, "method": row, "seed": seed},
            **{"status": "diverged" if accuracy is None else "finished", "metric": "accuracy"},
            "final_accuracy": None if accuracy is None else accuracy / 100,
            "tflops": 100.0 if row.startswith("full") else float(row.split()[-1].strip("%")),
            **{"machine": "one", "torch": "2", "git": "a", "command": "make compute"},
            **{"train_seconds": 1.0, "steps": 100, "steps_per_epoch": 20, "is_intact": True},
            "layers": json.dumps(["a", "head"]),
            "frozen": json.dumps({} if row.startswith("full") else {"a": 50}),
        }
        | changes
        for (model, dataset), accuracies in found.items()
        for row, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]
    return pd.DataFrame(rows).astype({"final_accuracy": float})


def planned_cells(
    workloads: list[Workload], rows: list[str], seeds: int
) -> list[tuple[str, str, str, int]]:
    """Returns the cells of a table that has all rows in all workloads."""
    return [
        (*workload, row, seed) for workload in workloads for row in rows for seed in range(seeds)
    ]
