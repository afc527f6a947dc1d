"""Optimizers and learning rate schedules of runs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from baselines.freezeout import param_groups
from experiments.config import RunConfig
from experiments.methods import METHODS
from smartfrz import ComputeBudget, Layer


def make_optimizer(config: RunConfig, model: nn.Module, layers: Sequence[Layer]) -> Optimizer:
    """Returns SGD or AdamW, with one param group per layer if their learning rates differ."""
    by_layer = METHODS[config.method].sets_learning_rates or config.layer_decay != 1
    params = _decayed_groups(config, model, layers) if by_layer else model.parameters()
    if config.optimizer == "adamw":
        return AdamW(params, config.lr, weight_decay=config.weight_decay)
    return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)


def _decayed_groups(
    config: RunConfig, model: nn.Module, layers: Sequence[Layer]
) -> list[dict[str, Any]]:
    """Returns a param group for each layer, with layer-wise learning-rate decay.

    Layer i of L has the learning rate ``lr * layer_decay ** (L - i)``. The heads are layer L, and
    so are the parameters in no layer (Clark et al., "ELECTRA", 2020; Bao et al., "BEiT", 2022).
    """
    groups = param_groups(model, layers)
    # The group of the parameters in no layer is the last one, which zip leaves out.
    body = [g for g, layer in zip(groups, layers, strict=False) if not layer.is_head]
    for distance, group in enumerate(reversed(body), start=1):
        group["lr"] = config.lr * config.layer_decay**distance
    return groups


def make_scheduler(
    config: RunConfig, optimizer: Optimizer, total_steps: int, budget: ComputeBudget | None
) -> LambdaLR | None:
    """Returns a linear warmup followed by the config's schedule.

    Args:
        config: the run.
        optimizer: its optimizer.
        total_steps: number of optimizer steps of a run without a budget.
        budget: the run's budget; the learning rate is a function of its spent fraction.

    Returns:
        The scheduler; None if the method sets the learning rates.
    """
    if METHODS[config.method].sets_learning_rates:
        return None
    total = budget.steps if budget else total_steps
    warmup = config.warmup * total
    schedule = _SCHEDULES[config.schedule]

    def factor(step: int) -> float:
        progress = budget.spent * total if budget else step
        if progress < warmup:
            return (progress + 1) / (warmup + 1)
        return schedule(progress - warmup, total - warmup)

    return LambdaLR(optimizer, factor)


def _cosine(step: float, total: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / total))


_SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": _cosine,
    "constant": lambda step, total: 1.0,
    "step": lambda step, total: 0.1 ** sum(step >= part * total for part in (0.5, 0.75)),
    "restarts": lambda step, total: _cosine(3 * step % total, total),
}
"""Factor of the learning rate, by the steps since the warmup and the number of steps after it."""
