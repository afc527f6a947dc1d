"""Recording of the runs on which predictors are trained or evaluated."""

from collections.abc import Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.runs.recording import is_recorded, write_readme
from experiments.tables.queue import missing_prerequisites, run_missing


def record_all(recordings: Sequence[RunConfig], runs: Path, command: str) -> None:
    """Executes the missing runs, pretraining first; each resumes from its last checkpoint."""
    todo = to_record(recordings, runs)
    print(f"{len(recordings)} recorded runs needed, {len(todo)} runs to do.")
    run_missing(recordings, todo, runs, command)
    write_readme(recordings, command)


def to_record(recordings: Sequence[RunConfig], runs: Path) -> list[RunConfig]:
    """Returns the runs still to record, preceded by the pretraining runs that they need."""
    missing = [config for config in recordings if not is_recorded(config)]
    return missing_prerequisites(missing, runs) + missing
