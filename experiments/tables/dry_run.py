"""Output of commands with ``--dry``: the missing runs and their requirements."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import NeedsDownloadError
from experiments.runs.run_frame import load_runs
from experiments.tables.requirements import check_requirements, requirements


def print_todo(configs: Iterable[RunConfig], todo: Sequence[RunConfig], runs: Path) -> None:
    """Prints the missing runs and their requirements, or why they cannot be started.

    Args:
        configs: all runs of the command.
        todo: the missing runs, including prerequisites.
        runs: the folder of the run files.
    """
    print(f"{len(todo)} runs to do, pretraining included{':' if todo else '.'}")
    for config in todo:
        print(f"  {config.cell}, {config.epochs:g} epochs")
    try:
        check_requirements([*configs, *todo])
        for line in requirements(todo, load_runs(runs)):
            print(line)
    except UserError as error:
        print_refusal(error)


def print_refusal(error: UserError) -> None:
    """Prints why a command cannot be started, or not at once."""
    reason = "To be downloaded" if isinstance(error, NeedsDownloadError) else "Cannot be started"
    print(f"{reason}: {error}")
