"""Recording the runs that predictors learn from or are judged on, where they are missing."""

from collections.abc import Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.runs.recording import is_recorded, write_readme
from experiments.tables.queue import missing_prerequisites, run_missing


def record_all(recordings: Sequence[RunConfig], runs: Path, command: str) -> None:
    """Does the missing runs, pretraining first; each goes on where it stopped."""
    todo = to_record(recordings, runs)
    print(f"{len(recordings)} trainings to record, {len(todo)} runs to do.")
    run_missing(recordings, todo, runs, command)
    write_readme(recordings, command)


def to_record(recordings: Sequence[RunConfig], runs: Path) -> list[RunConfig]:
    """The recordings that are missing, after the pretraining that they need."""
    missing = [config for config in recordings if not is_recorded(config)]
    return missing_prerequisites(missing, runs) + missing
