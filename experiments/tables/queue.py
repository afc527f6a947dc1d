"""Runs in a row: what has to be done before them, and one progress bar over all of them."""

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
    """The runs whose final weights a run needs: its pretraining, and the oracle's reference."""
    source = pretraining_run(config)
    own = [] if source is None else [source]
    return own + METHODS[config.method].reference_runs(config)


def missing_prerequisites(configs: Iterable[RunConfig], runs: Path) -> list[RunConfig]:
    """What has to be run before ``configs`` can be, each once, in an order that works.

    Args:
        configs: the runs to come.
        runs: the folder of the run files.
    """
    needed = dict.fromkeys(each for config in configs for each in prerequisites(config))
    return [each for each in needed if not is_finished(each, runs, needs_weights=True)]


def run_queue(
    todo: Sequence[RunConfig], run_one: Callable[[RunConfig, OnStep], None], quiet: bool = False
) -> None:
    """Does one run after the other, and says first how long it will take.

    Args:
        todo: the runs, in order.
        run_one: does a run, given what it has to call after every step.
        quiet: show nothing.
    """
    if not todo:
        return
    estimates = estimate(list(todo))
    if not quiet:
        seconds = sum(each.seconds for each in estimates.values())
        print(f"Training takes {duration(seconds)} here if nothing freezes.")
        print("Stopped and given again, the same command goes on from the last checkpoint.")
    with closing(TableBar(estimates, quiet)) as bar:
        for config in todo:
            run_one(config, bar.for_run(config))
            bar.finish_run(config)


def run_missing(
    configs: Sequence[RunConfig], todo: Sequence[RunConfig], runs: Path, command: str
) -> None:
    """Does those of some runs that are missing; recordings go into the cache.

    Args:
        configs: the runs.
        todo: what is missing of them, and of what they start from, in an order that works.
        runs: the folder of the run files.
        command: what the user gave, for the record.
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
    """Tracks nothing."""
