"""A measurement, made once for the same inputs and kept beside what is drawn of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.files import write_csv, write_json_atomic
from experiments.runs.provenance import RUN_CODE, provenance

_FACTS, _PROVENANCE = "facts.json", "provenance.json"

_CODE = (*RUN_CODE, "experiments/studies", "benchmarks")
"""The files and folders that a measurement's numbers depend on."""


@dataclass(frozen=True)
class Measurement:
    """What was measured: single ``facts`` by name, and ``frames``, each a CSV file."""

    facts: dict[str, Any]
    frames: dict[str, pd.DataFrame]


def measured_once(
    folder: Path, inputs: Any, command: str, measure: Callable[[], Measurement]
) -> Measurement:
    """Measures, unless the folder holds what was measured with the same inputs.

    Args:
        folder: where ``facts.json``, ``provenance.json`` and the CSV files are kept.
        inputs: all that the outcome depends on, but for the machine; what ``json.dumps`` takes.
        command: what the user gave, for the record.
        measure: does it.

    Returns:
        What the files hold; its facts say, too, where and when it was measured.
    """
    if (kept := measured(folder, inputs)) is not None:
        return kept
    made = measure()
    for name, frame in made.frames.items():
        write_csv(frame, folder / f"{name}.csv")
    write_json_atomic(folder / _PROVENANCE, provenance(command, _CODE))
    facts = {"id": _id(inputs), **made.facts, "frames": list(made.frames)}
    write_json_atomic(folder / _FACTS, facts)
    kept = measured(folder, inputs)
    assert kept is not None
    return kept


def measured(folder: Path, inputs: Any) -> Measurement | None:
    """What a folder holds of the same inputs; ``None`` if a file is missing or not whole."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if facts["id"] != _id(inputs):
            return None
        origin = json.loads((folder / _PROVENANCE).read_text(encoding="utf-8"))
        frames = {name: pd.read_csv(folder / f"{name}.csv") for name in facts["frames"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Measurement(facts | origin, frames)


def counted(number: int, noun: str) -> str:
    """A number of things, in words: ``1 training``, ``2 trainings``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _id(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
