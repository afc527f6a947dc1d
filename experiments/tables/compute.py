"""Compute of whole runs, counted on a traced model without training."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from experiments.config import RunConfig
from experiments.data.registry import make_batches
from experiments.models.registry import build_model
from smartfrz import Layer, find_layers
from smartfrz.cost import training_flops
from smartfrz.graph import Call, trace


@dataclass(frozen=True)
class Traced:
    """A run's model, with random weights, and its forward pass on one example."""

    model: torch.nn.Module
    layers: list[Layer]
    calls: list[Call]


def traced(config: RunConfig) -> Traced:
    """Builds the model of a run and traces it."""
    batches = make_batches(config, torch.device("cpu"))
    model = build_model(config.model, batches.num_classes, config.image_size)
    example = batches.example()
    return Traced(model, find_layers(model, example), trace(model, example))


class Size(NamedTuple):
    """The FLOPs of a model per example without freezing, and the bytes of its parameters."""

    flops: int
    flops_paper: int
    num_bytes: int


def size(config: RunConfig) -> Size:
    """Counts the model of a run; runs with the same model and inputs share one count."""
    return _size(
        RunConfig(
            config.model,
            config.dataset,
            batch_size=1,
            image_size=config.image_size,
            max_length=config.max_length,
        )
    )


@lru_cache
def _size(config: RunConfig) -> Size:
    run = traced(config)
    params = list(run.model.parameters())
    exact, as_in_paper = (training_flops(run.calls, params, paper) for paper in (False, True))
    return Size(exact, as_in_paper, sum(param.nbytes for param in params))


def steps_per_epoch(config: RunConfig) -> int:
    """Number of optimizer steps in an epoch of a run."""
    return make_batches(config, torch.device("cpu")).steps_per_epoch


def full_tflops(config: RunConfig, as_in_paper: bool = False) -> float:
    """Counts the TFLOPs (1e12 operations) of a run without freezing.

    Args:
        config: the run.
        as_in_paper: see `training_flops`.
    """
    flops = size(config).flops_paper if as_in_paper else size(config).flops
    return flops * config.batch_size * steps_per_epoch(config) * config.epochs / 1e12
