"""Time estimates for runs, and a progress bar over all runs of a table."""

from dataclasses import dataclass, replace
from itertools import islice

from tqdm import tqdm

from experiments.config import RunConfig
from experiments.runs.setup import Run, prepare
from experiments.runs.training_loop import Curves, OnStep, train_step


@dataclass(frozen=True)
class Estimate:
    """The time that a run would take without freezing."""

    seconds_per_step: float
    steps: int

    @property
    def seconds(self) -> float:
        """Time of the whole run in seconds."""
        return self.seconds_per_step * self.steps


def estimate(configs: list[RunConfig]) -> dict[str, Estimate]:
    """Estimates the time of runs without freezing from three timed steps of each workload.

    Args:
        configs: the runs.

    Returns:
        The estimates by the ids of the runs.
    """
    measured: dict[tuple, tuple[float, int]] = {}
    estimates = {}
    for config in configs:
        workload = (
            *(config.model, config.dataset, config.train_images),
            *(config.batch_size, config.image_size, config.max_length),
        )
        if workload not in measured:
            measured[workload] = _time_steps(config)
        seconds, steps_per_epoch = measured[workload]
        steps = config.epochs * steps_per_epoch * (config.budget or 1)
        estimates[config.id] = Estimate(seconds, max(1, round(steps)))
    return estimates


def _time_steps(config: RunConfig, steps: int = 3) -> tuple[float, int]:
    run = prepare(replace(config.full_training, pretraining=None))
    run.model.train()
    seconds = []
    for batch in islice(run.batches.epoch(0, 0), steps):
        started = run.clock()
        train_step(run, Curves(), batch)
        seconds.append(run.clock() - started)
    return min(seconds), run.batches.steps_per_epoch


def duration(seconds: float) -> str:
    """Formats a duration in seconds: ``3 h 20 min``, ``5 min``, ``42 s``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


class TableBar:
    """A progress bar over all runs, each weighted by its estimated time without freezing.

    Args:
        estimates: the estimates of the runs by their ids, see `estimate`.
        quiet: whether to show nothing.
    """

    def __init__(self, estimates: dict[str, Estimate], quiet: bool) -> None:
        self._estimates = estimates
        total = sum(each.seconds for each in estimates.values())
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left"
        self._bar = tqdm(total=total, bar_format=form, disable=quiet, mininterval=0.5)
        self._finished = 0.0

    def for_run(self, planned: RunConfig) -> OnStep:
        """Returns the callback that updates the bar after every step of a run."""
        share = self._estimates[planned.id].seconds

        def on_step(run: Run, curves: Curves) -> None:
            frozen = len(run.freezer.frozen) / len(run.freezer.layers)
            epoch = curves.step / run.batches.steps_per_epoch
            self._bar.set_description_str(
                f"{run.config.cell}, epoch {epoch:.1f}/{run.config.epochs:.3g}, "
                f"{frozen:.0%} frozen",
                refresh=False,
            )
            self._bar.update(self._finished + run.progress(curves.step) * share - self._bar.n)

        return on_step

    def finish_run(self, config: RunConfig) -> None:
        """Counts a run as finished, even if it ended early."""
        self._finished += self._estimates[config.id].seconds
        self._bar.update(self._finished - self._bar.n)

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()
