"""Format of run files: their keys, their checksum, and the function that reads them.

A run file, ``results/runs/<id>.json``, contains one finished or diverged run with the keys in
`RUN_KEYS`. Accuracies are fractions, times are in seconds, compute is in TFLOPs (1e12 operations in
total), and ``frozen`` maps a layer's name to the step at which it was frozen.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.files import DamagedFileError, unless_damaged

SERIES = ("accuracy", "eval_steps", "loss", "frozen_fraction", "layers", "frozen")
SCALARS = (
    *("id", "status", "metric", "final_accuracy"),
    *("train_seconds", "overhead_seconds", "eval_seconds"),
    *("tflops", "tflops_paper", "tflops_full", "peak_memory_bytes"),
    *("steps", "steps_per_epoch", "torch", "git", "command", "date"),
)
CONFIG_KEYS = frozenset({"model", "dataset", "method", "seed", "epochs"})
RUN_KEYS = frozenset({"config", "machine", "pretrained", *SCALARS, *SERIES})


def sealed(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the run with a hash of its content, which reveals later edits."""
    return {**run, "sha256": _digest(run)}


def is_intact(run: Mapping[str, Any]) -> bool:
    """Whether a run's content is unchanged since it was sealed."""
    return run.get("sha256") == _digest({k: v for k, v in run.items() if k != "sha256"})


def _digest(run: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def read_run(path: Path) -> dict[str, Any] | None:
    """Reads a run file, and leaves it as it is.

    Returns:
        The run; None if there is no file, or, with a warning, if it is not a complete run.
    """
    return unless_damaged(path, parse_run)


def parse_run(path: Path) -> dict[str, Any]:
    """Reads a run file.

    Raises:
        FileNotFoundError: there is no file.
        DamagedFileError: it is not a complete run.
    """
    content = path.read_bytes()
    try:
        run = json.loads(content.decode("utf-8"))
        _check_complete(run)
    except ValueError as error:
        raise DamagedFileError(str(error)) from error
    return run


def _check_complete(run: Any) -> None:
    """Raises ValueError with the reason if a value is not a complete run."""
    if not isinstance(run, dict) or not isinstance(run.get("config", {}), dict):
        raise ValueError("it is not an object with a config")
    missing = sorted((RUN_KEYS - run.keys()) | (CONFIG_KEYS - run.get("config", {}).keys()))
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
