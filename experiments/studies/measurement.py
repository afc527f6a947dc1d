"""Measurements, stored with their results and repeated only if their inputs change."""

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
"""Files and folders on which a measurement's numbers depend."""


@dataclass(frozen=True)
class Measurement:
    """A measurement.

    Attributes:
        facts: single values, by name.
        frames: tables, by name; each is stored as a CSV file.
    """

    facts: dict[str, Any]
    frames: dict[str, pd.DataFrame]


def measured_once(
    folder: Path, inputs: Any, command: str, measure: Callable[[], Measurement]
) -> Measurement:
    """Returns the stored measurement of a folder, or measures if the inputs differ.

    Args:
        folder: folder of ``facts.json``, ``provenance.json`` and the CSV files.
        inputs: everything on which the outcome depends except the machine, serialisable as JSON.
        command: the user's command, recorded in the provenance.
        measure: measures.

    Returns:
        The measurement as read from the files; its facts include the provenance.
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
    """Returns the stored measurement of the same inputs; None if a file is missing or damaged."""
    wanted = _id(inputs)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if facts["id"] != wanted:
            return None
        origin = json.loads((folder / _PROVENANCE).read_text(encoding="utf-8"))
        frames = {name: pd.read_csv(folder / f"{name}.csv") for name in facts["frames"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Measurement(facts | origin, frames)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 run`` or ``2 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _id(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
