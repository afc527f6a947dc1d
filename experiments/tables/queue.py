"""Sequential execution of runs, shared with other processes, under one progress bar."""

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.config import RunConfig
from experiments.locks import lock_of
from experiments.methods import METHODS
from experiments.models.pretraining import pretraining_run
from experiments.runs.execute import execute, is_finished
from experiments.runs.processes import by_main_process
from experiments.runs.progress import TableBar, duration, estimate
from experiments.runs.recording import is_recorded, record_history
from experiments.runs.training_loop import OnStep
from experiments.tables.requirements import check_requirements
from experiments.tables.versions import describe, of_other_code

_SECONDS = 60.0
"""How long to wait for another process before telling the other processes of this run."""


def prerequisites(config: RunConfig) -> list[RunConfig]:
    """The runs whose final weights a run needs: its pretraining, and its method's references."""
    source = pretraining_run(config)
    own = [] if source is None else [source]
    return own + METHODS[config.method].reference_runs(config)


def missing_prerequisites(
    configs: Iterable[RunConfig], runs: Path, by_this_code: bool = False
) -> list[RunConfig]:
    """Returns the missing prerequisites of some runs in order of execution, without duplicates.

    Args:
        configs: the runs.
        runs: the folder of the run files.
        by_this_code: whether those of other code are missing, too.
    """
    needed = dict.fromkeys(each for config in configs for each in prerequisites(config))
    return [
        each
        for each in needed
        if not is_finished(each, runs, needs_weights=True, by_this_code=by_this_code)
    ]


@dataclass(frozen=True)
class Queue:
    """Runs to execute one after the other, shared with other processes that use the same cache.

    Attributes:
        runs: the runs, prerequisites first.
        execute: executes a run, given a callback to call after every step.
        is_finished: whether a run is finished, by this or another process.
        needs: the runs that a run has to wait for.
        final: the run as it is executed, once those that it waits for are finished.
    """

    runs: Sequence[RunConfig]
    execute: Callable[[RunConfig, OnStep], None]
    is_finished: Callable[[RunConfig], bool]
    needs: Callable[[RunConfig], Collection[RunConfig]] = prerequisites
    final: Callable[[RunConfig], RunConfig] = lambda config: config


def run_queue(queue: Queue, quiet: bool = False) -> None:
    """Executes the runs of a queue, after printing a time estimate.

    Args:
        queue: the queue.
        quiet: whether to print nothing.
    """
    if not queue.runs:
        return
    estimates = estimate(list(queue.runs))
    if not quiet:
        seconds = sum(each.seconds for each in estimates.values())
        print(f"Estimated training time on this machine without freezing: {duration(seconds)}.")
        print("If it is interrupted, the same command resumes from the last checkpoint.")
    with closing(TableBar(estimates, quiet)) as bar, closing(claimed(queue, quiet)) as claims:
        for config, is_free in claims:
            if is_free:
                queue.execute(config, bar.for_run(config))
            bar.finish_run(config)


def claimed(queue: Queue, quiet: bool = False) -> Generator[tuple[RunConfig, bool]]:
    """Goes through the runs of a queue, and holds the lock of each while it is the current one.

    Runs that another process is executing come last: it is waited for. All processes of a run must
    call this; the main one holds the locks.

    Yields:
        Each run, and whether it has to be executed: False if it is finished by now.
    """
    pending, busy = list(queue.runs), set[RunConfig]()
    while pending:
        ready = [run for run in pending if not any(each in pending for each in queue.needs(run))]
        config = next((run for run in ready if run not in busy), ready[0])
        must_wait = config in busy
        if must_wait and not quiet:
            print(f"Waiting for another process: {config.cell}.", flush=True)
        lock = lock_of(queue.final(config).id)
        try:
            state = by_main_process(partial(_state, queue, config, lock, 0))
            while must_wait and state is None:
                # In steps, because collective calls of the other processes time out.
                state = by_main_process(partial(_state, queue, config, lock, _SECONDS))
            if state is None:
                busy.add(config)
                continue
            yield config, state == "missing"
        finally:
            lock.release()
        pending.remove(config)
        busy.clear()


def _state(queue: Queue, config: RunConfig, lock: FileLock, seconds: float) -> str | None:
    """Locks a run, and returns its state; None if another process holds the lock."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    return "finished" if queue.is_finished(config) else "missing"


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
    sources = dict.fromkeys(source for config in configs for source in prerequisites(config))
    if others := of_other_code([source for source in sources if source not in todo], runs):
        print(describe(others, runs))

    def run_one(config: RunConfig, on_step: OnStep) -> None:
        if METHODS[config.method].is_recording:
            record_history(config, on_step)
        else:
            execute(config, runs, command, on_step, ignore, keep_weights=config in sources)

    def is_known(config: RunConfig) -> bool:
        if METHODS[config.method].is_recording:
            return is_recorded(config)
        return is_finished(config, runs, needs_weights=config in sources)

    run_queue(Queue(todo, run_one, is_known))


def ignore(*_: object) -> None:
    """A callback that does nothing."""
