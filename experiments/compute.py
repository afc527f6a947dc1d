"""The compute of whole runs, counted without training."""

from dataclasses import dataclass

import torch

from experiments.config import RunConfig
from experiments.data import load_data
from experiments.models import build_model
from smartfrz import Layer, find_layers
from smartfrz.cost import training_flops
from smartfrz.tracing import Call, trace


@dataclass(frozen=True)
class Traced:
    """A run's model, with random weights, and its forward pass on one image."""

    model: torch.nn.Module
    layers: list[Layer]
    calls: list[Call]


def traced(config: RunConfig) -> Traced:
    """Builds the model of a run and traces it."""
    model = build_model(config.model, load_data(config.dataset).num_classes, config.image_size)
    example = torch.zeros(1, 3, config.image_size, config.image_size)
    return Traced(model, find_layers(model, example), trace(model, example))


def steps_per_epoch(config: RunConfig) -> int:
    """Optimizer steps in an epoch of a run."""
    images = load_data(config.dataset).train_images[: config.train_images or None]
    return len(images) // config.batch_size


def full_tflops(config: RunConfig, as_in_paper: bool = False) -> float:
    """TFLOPs of a run if nothing freezes.

    Args:
        config: the run.
        as_in_paper: see :func:`smartfrz.cost.training_flops`.
    """
    run = traced(config)
    flops = training_flops(run.calls, list(run.model.parameters()), as_in_paper)
    return flops * config.batch_size * steps_per_epoch(config) * config.epochs / 1e12
