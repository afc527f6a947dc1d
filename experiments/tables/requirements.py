"""Requirements of planned runs: data, published weights, disk space, time on known machines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from timeit import Timer

import pandas as pd
import torch

from experiments.config import RunConfig
from experiments.data.registry import load
from experiments.models.pretraining import PUBLISHED, fetch_published_weights, pretraining_run
from experiments.reporting.labels import display_name
from experiments.tables.compute import full_tflops, size

_IMAGE_SIZE, _BATCH_SIZE = 224, 32
"""Of the benchmark of steps on a GPU."""


def requirements(todo: Sequence[RunConfig], measured: pd.DataFrame) -> Iterator[str]:
    """Lists the requirements of missing runs, one line each.

    Args:
        todo: the missing runs.
        measured: finished runs, see `runs_to_frame`.
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
        yield f"Training time without freezing on {machine}: {hours:,.1f} hours."
    in_bf16 = sum(config.amp == "bf16" for config in todo)
    if in_bf16 and not torch.cuda.is_available() and (factor := slowdown_of_bf16()) > 2:
        yield (
            f"In bf16 this processor takes {factor:.0f} times as long as in fp32 for a product of "
            f"matrices, and {in_bf16} of the runs use it: choose another machine for them."
        )


def slowdown_of_bf16() -> float:
    """Measures how many times as long a product of matrices takes on the CPU in bf16 as in fp32."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix  # prepares the kernel
        times[dtype] = min(Timer(partial(torch.mm, matrix, matrix)).repeat(10, 1))
    return times[torch.bfloat16] / times[torch.float32]


def check_requirements(configs: Iterable[RunConfig]) -> None:
    """Checks that all data sets and published weights are available, and downloads missing ones.

    Raises:
        NeedsDownloadError: one of them is missing, and this is a dry run.
        UserError: one of them is unknown, or missing and cannot be downloaded.
    """
    for config in {(each.dataset, each.max_length): each for each in configs}.values():
        load(config)
    for config in {each.model: each for each in configs if _published(each)}.values():
        fetch_published_weights(config.model)


def hours_by_machine(todo: Sequence[RunConfig], measured: pd.DataFrame) -> dict[str, float]:
    """Estimates the hours of runs without freezing on machines that have trained their models.

    The estimate is based on the median throughput of full training runs of the same network on
    that machine, with any data set.

    Args:
        todo: the runs.
        measured: finished runs, see `runs_to_frame`.

    Returns:
        Hours by machine, for machines with full training runs of all networks.
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


def benchmarked(todo: Sequence[RunConfig], results: Path) -> pd.DataFrame:
    """Returns the throughput of the benchmarks of steps on GPUs, in the form of finished runs.

    Args:
        todo: the runs whose networks matter.
        results: the folder of all results.
    """
    rows = []
    for folder in sorted(results.glob("bench-small_steps-*")):
        times = pd.read_csv(folder / "small_steps.csv").groupby("model")["full_ms"].median()
        machine = json.loads((folder / "provenance.json").read_text())["machine"]["gpu"]
        for config in {each.model: each for each in todo if each.model in times}.values():
            step = replace(config, image_size=_IMAGE_SIZE)
            rows.append(
                {
                    **{"model": config.model, "method": "full", "status": "finished"},
                    "machine": f"{machine}, by the benchmark of steps",
                    "tflops": size(step).flops * _BATCH_SIZE / 1e12,
                    "train_seconds": times[config.model] / 1000,
                }
            )
    return pd.DataFrame(rows)


def _published(config: RunConfig) -> bool:
    return config.pretraining is not None and config.pretraining.dataset in PUBLISHED


def _megabytes(todo: Sequence[RunConfig]) -> float:
    """Size of one checkpoint, including optimizer state, and of the stored pretrained weights."""
    sizes = {
        config.model: size(config).num_bytes
        for config in {each.model: each for each in todo}.values()
    }
    sources = {source for each in todo if (source := pretraining_run(each)) is not None}
    kept = sum(sizes.get(source.model, 0) for source in sources)
    return (kept + 3 * max(sizes.values())) / 1e6
