"""Sequential execution of runs: prerequisites, a time estimate and one progress bar."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from experiments.config import RunConfig
from experiments.methods import METHODS
from experiments.models.pretraining import pretraining_run
from experiments.runs.execute import execute, is_finished
from experiments.runs.progress import TableBar, duration, estimate
from experiments.runs.recording import record_history
from experiments.runs.training_loop import OnStep
from experiments.tables.requirements import check_requirements


def prerequisites(config: RunConfig) -> list[RunConfig]:
    """The runs whose final weights a run needs: its pretraining, and its method's references."""
    source = pretraining_run(config)
    own = [] if source is None else [source]
    return own + METHODS[config.method].reference_runs(config)


def missing_prerequisites(configs: Iterable[RunConfig], runs: Path) -> list[RunConfig]:
    """Returns the missing prerequisites of some runs in order of execution, without duplicates.

    Args:
        configs: the runs.
        runs: the folder of the run files.
    """
    needed = dict.fromkeys(each for config in configs for each in prerequisites(config))
    return [each for each in needed if not is_finished(each, runs, needs_weights=True)]


def run_queue(
    todo: Sequence[RunConfig], run_one: Callable[[RunConfig, OnStep], None], quiet: bool = False
) -> None:
    """Executes runs one after the other, after printing a time estimate.

    Args:
        todo: the runs, in order.
        run_one: executes a run, given a callback to call after every step.
        quiet: whether to print nothing.
    """
    if not todo:
        return
    estimates = estimate(list(todo))
    if not quiet:
        seconds = sum(each.seconds for each in estimates.values())
        print(f"Estimated training time on this machine without freezing: {duration(seconds)}.")
        print("If it is interrupted, the same command resumes from the last checkpoint.")
    with closing(TableBar(estimates, quiet)) as bar:
        for config in todo:
            run_one(config, bar.for_run(config))
            bar.finish_run(config)


def run_missing(
    configs: Sequence[RunConfig], todo: Sequence[RunConfig], runs: Path, command: str
) -> None:
    """Executes the missing runs of a command; histories are stored in the cache.

    Args:
        configs: all runs of the command.
        todo: the missing runs, prerequisites first.
        runs: the folder of the run files.
        command: the user's command, which the run files record.
    """
    check_requirements(configs)
    sources = {source for config in configs for source in prerequisites(config)}

    def run_one(config: RunConfig, on_step: OnStep) -> None:
        if METHODS[config.method].is_recording:
            record_history(config, on_step)
        else:
            execute(config, runs, command, on_step, ignore, keep_weights=config in sources)

    run_queue(todo, run_one)


def ignore(*_: object) -> None:
    """A callback that does nothing."""
