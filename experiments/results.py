"""Run files: how a run's results are written and read, and the flat frame that tables are made of.

A run file, ``results/runs/<id>.json``, holds one finished or diverged run with the keys in
`RUN_KEYS`. Accuracies are fractions, times seconds, compute TFLOPs (1e12 operations in all) and
``frozen`` maps a layer's name to the step at which it was frozen.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

SERIES = ("accuracy", "eval_steps", "loss", "frozen_fraction", "layers", "frozen")
SCALARS = (
    *("id", "status", "metric", "final_accuracy"),
    *("train_seconds", "overhead_seconds", "eval_seconds"),
    *("tflops", "tflops_paper", "tflops_full", "peak_memory_bytes"),
    *("steps", "steps_per_epoch", "torch", "git", "command", "date"),
)
CONFIG_KEYS = frozenset({"model", "dataset", "method", "seed", "epochs"})
RUN_KEYS = frozenset({"config", "machine", "pretrained", *SCALARS, *SERIES})

COLUMNS = (
    *("id", "status", "model", "dataset", "method", "seed", "epochs"),
    *SCALARS[2:],
    *("machine", "pretrained_source", "pretrained_accuracy", "freezes", "is_intact"),
    *SERIES,
)
# An id such as "12e45" or a torch version such as "2.10" must not come back as a number.
_TEXTS = ("id", "torch", "git")
_NUMBERS = (
    *("epochs", "final_accuracy", "train_seconds", "overhead_seconds", "eval_seconds"),
    *("tflops", "tflops_paper", "tflops_full", "peak_memory_bytes", "pretrained_accuracy"),
)
_DTYPES: dict[str, type] = dict.fromkeys(_TEXTS, str) | dict.fromkeys(_NUMBERS, float)


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write an object as JSON so that `path` holds the old content or the whole new one.

    Args:
        path: The file to write; missing folders above it are made.
        obj: What `json.dumps` takes. A NaN is written as ``NaN``.

    Raises:
        OSError: The file cannot be written, as on a full disk. Nothing is left behind.
    """
    write_text_atomic(path, json.dumps(obj, indent=1) + "\n")


def sealed(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run with a hash of all that it holds, by which a later edit is noticed."""
    return {**run, "sha256": _digest(run)}


def is_intact(run: Mapping[str, Any]) -> bool:
    """Whether a run still is what was sealed."""
    return run.get("sha256") == _digest({k: v for k, v in run.items() if k != "sha256"})


def _digest(run: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def read_run(path: Path) -> dict[str, Any] | None:
    """Read a run file; one that is not a whole run is renamed to ``<name>.corrupt``.

    Returns:
        The run, or None (with a warning that says why) where the file was set aside.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(run)
    except ValueError as error:
        fault = f"not JSON ({error})"
    if fault is None:
        return run
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    warnings.warn(f"{path} is no run file: {fault}; renamed to {aside.name}", stacklevel=2)
    return None


def load_runs(folder: Path) -> pd.DataFrame:
    """All run files of a folder as a frame, see `runs_to_frame`; unusable ones are set aside."""
    runs = [read_run(path) for path in sorted(folder.glob("*.json"))]
    return runs_to_frame([run for run in runs if run is not None])


def runs_to_frame(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run, sorted by model, dataset, method, seed and id.

    Returns:
        `COLUMNS`, then whatever else the configs hold. Series and other nested values are JSON
        strings, so that the frame survives a CSV; the machine is one string.
    """
    rows = [_row(run) for run in runs]
    others = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, *others]).astype(_DTYPES)
    return frame.sort_values(["model", "dataset", "method", "seed", "id"], ignore_index=True)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, as atomically as `write_json_atomic`."""
    write_text_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a frame of runs that `write_csv` wrote, with its types."""
    dtypes = {**_DTYPES, "pretrained_sha256": str}
    return pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text so that `path` holds the old content or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fault(run: Any) -> str | None:
    if not isinstance(run, dict) or not isinstance(run.get("config", {}), dict):
        return "not an object with a config"
    missing = sorted((RUN_KEYS - run.keys()) | (CONFIG_KEYS - run.get("config", {}).keys()))
    return f"{', '.join(missing)} missing" if missing else None


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    measured = {key: run[key] for key in (*SCALARS, *SERIES)}
    measured["machine"] = _machine_name(run["machine"])
    measured["freezes"] = len(set(run["frozen"].values()))
    measured["is_intact"] = is_intact(run)
    measured |= {f"pretrained_{key}": value for key, value in (run["pretrained"] or {}).items()}
    clash = sorted(measured.keys() & run["config"].keys())
    assert not clash, f"measured values and config share the names {clash}"
    return {key: _flat(value) for key, value in (measured | run["config"]).items()}


def _machine_name(machine: Mapping[str, Any]) -> str:
    cores, processes = machine["cores"], machine.get("processes", 1)
    name = machine["gpu"] or f"{machine['cpu']}, {cores} core{'' if cores == 1 else 's'}"
    return name if processes == 1 else f"{processes} x {name}"


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
