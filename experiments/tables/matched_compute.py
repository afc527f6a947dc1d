"""What a run gets, epochs or time to freeze in, so that it spends what another one spent."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from experiments.config import RunConfig
from experiments.methods import METHODS
from experiments.runs.execute import run_file
from experiments.runs.run_files import read_run
from experiments.tables.compute import Traced, steps_per_epoch, traced
from smartfrz.cost import training_flops


def matched_epochs(config: RunConfig, tflops: float) -> float:
    """Epochs after which a run of linear freezing, or a shorter one, has spent ``tflops``.

    Layers freeze at fixed fractions of the run, if at all: its compute goes with its length.
    """
    steps = tflops * 1e12 / (config.batch_size * mean_flops(config))
    return max(1, round(steps)) / steps_per_epoch(config)


def matched_span(config: RunConfig, tflops: float) -> float:
    """The span with which a run that freezes in random order spends ``tflops``.

    Found by halving, since the compute grows with the span.

    Raises:
        ValueError: even with all layers frozen from the start it spends more.
    """
    steps = config.epochs * steps_per_epoch(config)
    target = tflops * 1e12 / (config.batch_size * round(steps))

    def too_much(span: float) -> bool:
        options = replace(config.options, span=span)  # type: ignore[type-var]
        return mean_flops(replace(config, options=options)) > target

    low, high = 0.0, 64.0
    if too_much(1e-6):
        raise ValueError(f"{config.cell} can't be matched: it would spend more than {tflops:.4g}.")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return low


def mean_flops(config: RunConfig) -> float:
    """FLOPs for one example, averaged over a run whose layers freeze by a schedule, if at all."""
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
    """The run that costs what the run it is matched with has cost.

    Args:
        config: any run; those without a ``match`` are returned as they are.
        planned: the table's runs and their methods, the one to be matched among them.
        runs: the folder of the run files.

    Returns:
        The run with its epochs or its span; ``None`` while the other one is not finished, or has
        diverged.
    """
    match = getattr(config.options, "match", "")
    if not match:
        return config
    for other, method in planned.items():
        if method == match and other.full_training == config.full_training:
            file = run_file(other, runs)
            found = read_run(file) if file.exists() else None
            if found and found["status"] == "finished":
                return _with_compute(config, found["tflops"])
    return None


def _with_compute(config: RunConfig, tflops: float) -> RunConfig:
    schedule = METHODS[config.method].schedule
    assert schedule
    if schedule.matched_by == "span":
        span = matched_span(config, tflops)
        return replace(config, options=replace(config.options, span=span))
    return replace(config, epochs=matched_epochs(config, tflops))
