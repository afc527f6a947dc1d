"""Optimizers and learning rate schedules of runs."""

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from baselines.freezeout import param_groups
from experiments.config import RunConfig
from experiments.methods import METHODS
from smartfrz import ComputeBudget, Layer


def make_optimizer(config: RunConfig, model: nn.Module, layers: Sequence[Layer]) -> Optimizer:
    """Returns SGD or AdamW, with one param group per layer if the method sets learning rates."""
    by_layer = METHODS[config.method].sets_learning_rates
    params = param_groups(model, layers) if by_layer else model.parameters()
    if config.optimizer == "adamw":
        return AdamW(params, config.lr, weight_decay=config.weight_decay)
    return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)


def make_scheduler(
    config: RunConfig, optimizer: Optimizer, total_steps: int, budget: ComputeBudget | None
) -> LambdaLR | None:
    """Returns a linear warmup followed by cosine annealing to zero.

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

    def factor(step: int) -> float:
        progress = budget.spent * total if budget else step
        if progress < warmup:
            return (progress + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (total - warmup)))

    return LambdaLR(optimizer, factor)
