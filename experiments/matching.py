"""How many epochs linear freezing gets, so that it spends what another method spent (Table 2)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from baselines.freezeout import freeze_step
from experiments.config import Linear, RunConfig
from experiments.data import load_data
from experiments.execute import run_file
from experiments.models import build_model
from experiments.results import read_run
from smartfrz import find_layers
from smartfrz.cost import training_flops
from smartfrz.tracing import trace


def matched_epochs(config: RunConfig, tflops: float) -> float:
    """Epochs after which a run of linear freezing has spent ``tflops``.

    Its layers freeze at fixed fractions of the run, so its compute is proportional to its length.
    """
    data = load_data(config.dataset)
    images = len(data.train_images[: config.train_images or None])
    steps_per_epoch = images // config.batch_size
    steps = tflops * 1e12 / (config.batch_size * mean_flops(config, data.num_classes))
    return max(1, round(steps)) / steps_per_epoch


def mean_flops(config: RunConfig, num_classes: int) -> float:
    """FLOPs for one image, averaged over a run of linear freezing."""
    assert isinstance(config.options, Linear)
    options, steps = config.options, 10_000
    model = build_model(config.model, num_classes, config.image_size)
    example = torch.zeros(1, 3, config.image_size, config.image_size)
    layers, calls = find_layers(model, example), trace(model, example)
    body = [layer for layer in layers if not layer.is_head]
    trains = {id(param): param for param in model.parameters()}
    total, since = 0, 0
    for i, layer in enumerate(body):
        until = min(freeze_step(steps, i, len(body), options.t0, options.how), steps)
        total += (until - since) * training_flops(calls, list(trains.values()))
        for param in layer.params:
            del trains[id(param)]
        since = until
    total += (steps - since) * training_flops(calls, list(trains.values()))
    return total / steps


def matched(config: RunConfig, planned: Sequence[RunConfig], runs: Path) -> RunConfig | None:
    """The run of linear freezing that costs what the run it is matched with has cost.

    Args:
        config: any run; all but linear freezing with a ``match`` are returned as they are.
        planned: the table's runs, the one to be matched among them.
        runs: the folder of the run files.

    Returns:
        The run with its epochs; ``None`` while the other one is not finished, or has diverged.
    """
    if not isinstance(config.options, Linear) or not config.options.match:
        return config
    for other in planned:
        if other.method == config.options.match and _workload(other) == _workload(config):
            file = run_file(other, runs)
            found = read_run(file) if file.exists() else None
            if found and found["status"] == "finished":
                return replace(config, epochs=matched_epochs(config, found["tflops"]))
    return None


def _workload(config: RunConfig) -> RunConfig:
    return replace(config, method="full", options=None)
