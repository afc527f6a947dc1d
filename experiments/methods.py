"""From a method's name to the policy and the optimizer that it needs."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from baselines import AutoFreeze, DisplacementRule, FreezeOut, RandomOrder
from baselines.freezeout import param_groups
from experiments.batches import Batches
from experiments.config import (
    AutoFreezing,
    Displacement,
    InitialSimilarity,
    Linear,
    RandomOrdering,
    Recording,
    RunConfig,
    Similarity,
    SmartFreezing,
)
from experiments.predictors import load_predictor
from experiments.pretraining import load_weights
from smartfrz.distributed import unwrap
from smartfrz.freezer import Policy
from smartfrz.labeller import HistoryRecorder
from smartfrz.layers import Layer
from smartfrz.policies import SimilarityGuided, SmartFRZ


def make_optimizer(config: RunConfig, model: nn.Module, layers: Sequence[Layer]) -> Optimizer:
    """One param group a layer where the method sets learning rates by layer."""
    by_layer = isinstance(config.options, Linear)
    params = param_groups(model, layers) if by_layer else model.parameters()
    if config.optimizer == "adamw":
        return AdamW(params, config.lr, weight_decay=config.weight_decay)
    return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)


def make_policy(
    config: RunConfig, model: nn.Module, optimizer: Optimizer, batches: Batches, total_steps: int
) -> Policy | None:
    """The method's policy; ``None`` for full training."""
    steps_per_epoch = batches.steps_per_epoch
    match config.options:
        case Linear(t0=t0, how=how, scale=scale):
            warmup_steps = round(config.warmup * total_steps)
            return FreezeOut(optimizer, total_steps, t0, how, scale, warmup_steps)
        case AutoFreezing(intervals_per_epoch=intervals, percentile=percentile):
            exact = Fraction(intervals).limit_denominator(100)
            return AutoFreeze(steps_per_epoch * exact.denominator, exact.numerator, percentile)
        case SmartFreezing() as options:
            return SmartFRZ(
                load_predictor(options),
                interval(steps_per_epoch, options.records_per_epoch),
                options.records_per_decision,
                options.threshold,
            )
        case Similarity(looks_per_epoch=looks, tolerance=tolerance, probe_images=images):
            reference = copy.deepcopy(unwrap(model))
            weights, _ = load_weights(reference_run(config))
            reference.load_state_dict(weights)
            return SimilarityGuided(
                model,
                reference,
                batches.probe(images),
                interval(steps_per_epoch, looks),
                tolerance,
            )
        case Displacement(records_per_epoch=records, threshold=threshold):
            return DisplacementRule(interval(steps_per_epoch, records), threshold)
        case RandomOrdering(span=span):
            return RandomOrder(total_steps, span, config.seed)
        case InitialSimilarity(looks=looks, tolerance=tolerance, probe_images=images):
            return SimilarityGuided(
                model,
                copy.deepcopy(unwrap(model)),
                batches.probe(images),
                interval(total_steps, looks),
                tolerance,
            )
        case Recording(records_per_epoch=records, probe_images=images, sampled_weights=size):
            probe = [images for images, _ in batches.test(images, batch_size=32)]
            return HistoryRecorder(model, probe, interval(steps_per_epoch, records), size)
        case _:
            return None


def interval(steps: int, times: float) -> int:
    """Steps between two records or looks, of which there are so many in an epoch or a run."""
    return max(1, int(steps / times))


def reference_run(config: RunConfig) -> RunConfig:
    """The full training whose finished model tells the oracle which layers are done."""
    assert isinstance(config.options, Similarity)
    return replace(config.full_training, seed=config.options.reference_seed)
