"""Compute matching: the number of epochs, or the span, with which two runs spend the same."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.methods import METHODS
from experiments.options import ShorterOptions
from experiments.runs.execute import run_file
from experiments.runs.run_files import read_run
from experiments.tables.compute import Traced, steps_per_epoch, traced
from smartfrz.cost import training_flops


def matched_epochs(config: RunConfig, tflops: float) -> float:
    """Computes the number of epochs with which a run spends ``tflops``.

    It applies to linear freezing and shorter training: layers freeze at fixed fractions of the
    run, if at all, which makes its compute proportional to its length.
    """
    steps = tflops * 1e12 / (config.batch_size * mean_flops(config))
    return max(1, round(steps)) / steps_per_epoch(config)


def matched_span(config: RunConfig, tflops: float) -> float:
    """Computes the span with which a run that freezes in random order spends ``tflops``.

    The compute grows with the span, which is found by bisection.

    Raises:
        UserError: the run spends more even with all layers frozen from the start.
    """
    steps = config.epochs * steps_per_epoch(config)
    target = tflops * 1e12 / (config.batch_size * round(steps))

    def too_much(span: float) -> bool:
        options = replace(config.options, span=span)  # type: ignore[type-var]
        return mean_flops(replace(config, options=options)) > target

    low, high = 0.0, 64.0
    if too_much(1e-6):
        raise UserError(
            f"{config.cell} cannot be matched: even with all layers frozen from the start, it "
            f"spends more than {tflops:.4g} TFLOPs. Remove it from the table."
        )
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return low


def mean_flops(config: RunConfig) -> float:
    """Computes the FLOPs per example, averaged over a run whose method has a schedule."""
    steps, run = 10_000, _traced(config)
    schedule = METHODS[config.method].schedule
    assert schedule
    by_name = {layer.name: layer for layer in run.layers if not layer.is_head}
    trains = {id(param): param for param in run.model.parameters()}
    total = since = 0
    for name, until in schedule.freeze_steps(
        config.options, list(by_name), steps, config.seed
    ).items():
        total += (until - since) * training_flops(run.calls, list(trains.values()))
        for param in by_name[name].params:
            del trains[id(param)]
        since = until
    total += (steps - since) * training_flops(run.calls, list(trains.values()))
    return total / steps


@lru_cache(maxsize=1)
def _traced_workload(config: RunConfig) -> Traced:
    return traced(config)


def _traced(config: RunConfig) -> Traced:
    return _traced_workload(config.full_training)


def matched(config: RunConfig, planned: Mapping[RunConfig, str], runs: Path) -> RunConfig | None:
    """Returns a run with the compute that it is to spend.

    That is the compute of the run that it is matched with or, if its ``compute`` option is set,
    that fraction of full training's, for which no other run is needed.

    Args:
        config: the run; with neither option it is returned unchanged.
        planned: the table's runs and their methods, including the matched run.
        runs: the folder of the run files.

    Returns:
        The run with adjusted epochs or span; ``None`` if the matched run is not finished or has
        diverged.
    """
    if isinstance(config.options, ShorterOptions) and config.options.compute is not None:
        return replace(config, epochs=config.epochs * config.options.compute)
    if not _match(config):
        return config
    for other in partners(config, planned):
        found = read_run(run_file(other, runs))
        if found and found["status"] == "finished":
            return _with_compute(config, found["tflops"])
    return None


def partners(config: RunConfig, planned: Mapping[RunConfig, str]) -> list[RunConfig]:
    """Returns the run whose compute a run is matched with, if any; arguments as for `matched`."""
    match = _match(config)
    return [
        other
        for other, method in planned.items()
        if match and method == match and other.full_training == config.full_training
    ]


def _match(config: RunConfig) -> str:
    """The method that a run is matched with, if any: ``compute`` takes the place of ``match``."""
    has_compute = getattr(config.options, "compute", None) is not None
    return "" if has_compute else getattr(config.options, "match", "")


@lru_cache
def _with_compute(config: RunConfig, tflops: float) -> RunConfig:
    schedule = METHODS[config.method].schedule
    assert schedule
    if schedule.matched_by == "span":
        span = matched_span(config, tflops)
        return replace(config, options=replace(config.options, span=span))
    return replace(config, epochs=matched_epochs(config, tflops))
