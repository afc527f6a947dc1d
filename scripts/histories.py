"""Records trainings to learn from or to judge on: ``python -m scripts.histories``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.histories import is_recorded, write_readme
from experiments.plan import SCALES, load_spec, plan
from experiments.series import missing_prerequisites, run_missing
from scripts.cli import check_asked, run_command


def main() -> None:
    """Reads the command line and records what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", choices=("predictor", "evidence"), help="to learn or to be judged")
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--models", nargs="+", help="only these models")
    options = parser.parse_args()
    recordings = plan(load_spec(options.spec), options.scale)
    check_asked(options.models, {config.model for config in recordings}, "model")
    chosen = [c for c in recordings if not options.models or c.model in options.models]
    record_all(chosen, options.results / "runs", f"make {options.spec} SCALE={options.scale}")


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


if __name__ == "__main__":
    run_command(main)
