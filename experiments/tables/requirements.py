"""What a plan needs before its first run starts: data, weights, time on known machines, disk."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import pandas as pd

from experiments.config import RunConfig
from experiments.data.registry import load
from experiments.models.pretraining import PUBLISHED, has_published_weights, pretraining_run
from experiments.reporting.labels import display_name
from experiments.tables.compute import full_tflops, traced


def requirements(todo: Sequence[RunConfig], measured: pd.DataFrame) -> Iterator[str]:
    """What the runs to come need, a line each.

    Args:
        todo: the runs.
        measured: runs that were done, see `runs_to_frame`.
    """
    if not todo:
        return
    data = dict.fromkeys(display_name(config.dataset) for config in todo)
    yield f"Data: {', '.join(data)}."
    published = dict.fromkeys(config.model for config in todo if _published(config))
    if published:
        yield f"Published weights: {', '.join(map(display_name, published))}."
    yield f"Disk: up to {_megabytes(todo):,.0f} MB of weights and checkpoints in the cache."
    for machine, hours in hours_by_machine(todo, measured).items():
        yield f"Training, nothing frozen, on {machine}: {hours:,.1f} hours."


def check_requirements(configs: Iterable[RunConfig]) -> None:
    """Makes sure that all data sets and published weights are there, before the first run starts.

    Raises:
        ValueError: one is unknown or missing.
    """
    for config in {(each.dataset, each.max_length): each for each in configs}.values():
        load(config)
    for config in {each.model: each for each in configs if _published(each)}.values():
        if not has_published_weights(config.model):
            assert config.pretraining is not None
            raise ValueError(
                f"The published weights of {config.model} can't be had: go online once, or choose "
                "a scale that pretrains by itself."
            )


def hours_by_machine(todo: Sequence[RunConfig], measured: pd.DataFrame) -> dict[str, float]:
    """Hours that the runs would take without freezing, on machines that have trained their models.

    By the median of the throughput of full trainings of the same network there, whatever the data.
    """
    full = measured[(measured["method"] == "full") & (measured["status"] == "finished")]
    full = full[full["train_seconds"] > 0]
    hours = {}
    for machine, of_machine in full.groupby("machine", sort=True):
        speeds = {
            model: median(of["tflops"] / of["train_seconds"])
            for model, of in of_machine.groupby("model")
        }
        if all(config.model in speeds for config in todo):
            seconds = sum(
                full_tflops(config) * (config.budget or 1) / speeds[config.model] for config in todo
            )
            hours[str(machine)] = seconds / 3600
    return hours


def _published(config: RunConfig) -> bool:
    return config.pretraining is not None and config.pretraining.dataset in PUBLISHED


def _megabytes(todo: Sequence[RunConfig]) -> float:
    """One checkpoint at a time, with momentum, and the weights that others start from."""
    sizes = {
        config.model: sum(p.nbytes for p in traced(config).model.parameters())
        for config in {each.model: each for each in todo}.values()
    }
    sources = {source for each in todo if (source := pretraining_run(each)) is not None}
    kept = sum(sizes.get(source.model, 0) for source in sources)
    return (kept + 3 * max(sizes.values())) / 1e6
