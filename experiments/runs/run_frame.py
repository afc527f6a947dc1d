"""Flat data frames of run files, the input of tables and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.runs.run_files import SCALARS, SERIES, is_intact, read_run

COLUMNS = (
    *("id", "status", "model", "dataset", "method", "seed", "epochs"),
    *SCALARS[2:],
    *("machine", "pretrained_source", "pretrained_accuracy", "freezes", "is_intact"),
    *SERIES,
)


# An id such as "12e45" or a torch version such as "2.10" must not be read as a number.
_TEXTS = ("id", "torch", "git")


_NUMBERS = (
    *("epochs", "final_accuracy", "train_seconds", "overhead_seconds", "eval_seconds"),
    *("tflops", "tflops_paper", "tflops_full", "peak_memory_bytes", "pretrained_accuracy"),
)


_DTYPES: dict[str, type] = dict.fromkeys(_TEXTS, str) | dict.fromkeys(_NUMBERS, float)


def load_runs(folder: Path) -> pd.DataFrame:
    """Loads all run files of a folder, see `runs_to_frame`, except incomplete ones."""
    runs = [read_run(path) for path in sorted(folder.glob("*.json"))]
    return runs_to_frame([run for run in runs if run is not None])


def runs_to_frame(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Converts runs into a data frame, sorted by model, dataset, method, seed and id.

    Args:
        runs: the contents of run files.

    Returns:
        One row per run with the columns `COLUMNS` and then all other fields of the configs. Series
        and other nested values are JSON strings, which can be written as CSV without loss; the
        machine is one string.
    """
    rows = [_row(run) for run in runs]
    others = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, *others]).astype(_DTYPES)
    return frame.sort_values(["model", "dataset", "method", "seed", "id"], ignore_index=True)


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a frame of runs that `write_csv` wrote, with its types."""
    dtypes = {**_DTYPES, "pretrained_sha256": str, "code": str}
    return pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    measured = {key: run[key] for key in (*SCALARS, *SERIES)}
    measured["machine"] = _machine_name(run["machine"])
    measured["freezes"] = len(set(run["frozen"].values()))
    measured["is_intact"] = is_intact(run)
    measured |= {"code": run["code"]} if "code" in run else {}  # older run files lack it
    measured |= {f"pretrained_{key}": value for key, value in (run["pretrained"] or {}).items()}
    clash = sorted(measured.keys() & run["config"].keys())
    assert not clash, f"measured values and config both contain {clash}"
    return {key: _flat(value) for key, value in (measured | run["config"]).items()}


def _machine_name(machine: Mapping[str, Any]) -> str:
    cores, processes = machine["cores"], machine.get("processes", 1)
    name = machine["gpu"] or f"{machine['cpu']}, {cores} core{'' if cores == 1 else 's'}"
    return name if processes == 1 else f"{processes} x {name}"


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
