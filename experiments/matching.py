"""How many epochs a run gets, so that it spends what another method spent (Table 2)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from baselines.freezeout import freeze_step
from experiments.compute import steps_per_epoch, traced
from experiments.config import Linear, RunConfig, Shorter
from experiments.execute import run_file
from experiments.results import read_run
from smartfrz.cost import training_flops
from smartfrz.layers import Layer


def matched_epochs(config: RunConfig, tflops: float) -> float:
    """Epochs after which a run of linear freezing, or a shorter one, has spent ``tflops``.

    Layers freeze at fixed fractions of the run, if at all: its compute goes with its length.
    """
    steps = tflops * 1e12 / (config.batch_size * mean_flops(config))
    return max(1, round(steps)) / steps_per_epoch(config)


def mean_flops(config: RunConfig) -> float:
    """FLOPs for one image, averaged over a run of linear freezing or a shorter one."""
    steps, run = 10_000, traced(config)
    body = [layer for layer in run.layers if not layer.is_head]
    trains = {id(param): param for param in run.model.parameters()}
    total = since = 0
    for layer, until in _moments_of_freezing(config, body, steps):
        total += (until - since) * training_flops(run.calls, list(trains.values()))
        for param in layer.params:
            del trains[id(param)]
        since = until
    total += (steps - since) * training_flops(run.calls, list(trains.values()))
    return total / steps


def _moments_of_freezing(
    config: RunConfig, body: Sequence[Layer], steps: int
) -> Iterator[tuple[Layer, int]]:
    """Each layer that freezes in a run of so many steps, and the first step without it."""
    match config.options:
        case Linear(t0=t0, how=how):
            for i, layer in enumerate(body):
                yield layer, min(freeze_step(steps, i, len(body), t0, how), steps)
        case other:
            assert isinstance(other, Shorter)


def matched(config: RunConfig, planned: Mapping[RunConfig, str], runs: Path) -> RunConfig | None:
    """The run that costs what the run it is matched with has cost.

    Args:
        config: any run; those without a ``match`` are returned as they are.
        planned: the table's runs and their methods, the one to be matched among them.
        runs: the folder of the run files.

    Returns:
        The run with its epochs; ``None`` while the other one is not finished, or has diverged.
    """
    match = getattr(config.options, "match", "")
    if not match:
        return config
    for other, method in planned.items():
        if method == match and _workload(other) == _workload(config):
            file = run_file(other, runs)
            found = read_run(file) if file.exists() else None
            if found and found["status"] == "finished":
                return replace(config, epochs=matched_epochs(config, found["tflops"]))
    return None


def _workload(config: RunConfig) -> RunConfig:
    return replace(config, method="full", options=None)
