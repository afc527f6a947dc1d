"""What a command with ``--dry`` prints: the runs to do, and what they need."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.runs.run_frame import load_runs
from experiments.tables.requirements import check_requirements, requirements


def print_todo(configs: Iterable[RunConfig], todo: Sequence[RunConfig], runs: Path) -> None:
    """The runs to do and what they need, or why they can't be started here.

    Args:
        configs: all that the command is about.
        todo: what is missing of them, and of what they start from.
        runs: the folder of the run files.
    """
    print(f"{len(todo)} runs to do, pretraining included{':' if todo else '.'}")
    for config in todo:
        print(f"  {config.cell}, {config.epochs:g} epochs")
    try:
        check_requirements([*configs, *todo])
        for line in requirements(todo, load_runs(runs)):
            print(line)
    except ValueError as error:
        print_refusal(error)


def print_refusal(error: ValueError) -> None:
    """Why a command can't be started here."""
    print(f"Not to be started here: {error}")
