"""The optimizer of a run, and how its learning rate is scheduled."""

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
    """SGD or AdamW; one param group per layer where the method sets learning rates by layer."""
    by_layer = METHODS[config.method].sets_learning_rates
    params = param_groups(model, layers) if by_layer else model.parameters()
    if config.optimizer == "adamw":
        return AdamW(params, config.lr, weight_decay=config.weight_decay)
    return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)


def make_scheduler(
    config: RunConfig, optimizer: Optimizer, total_steps: int, budget: ComputeBudget | None
) -> LambdaLR | None:
    """Cosine annealing to zero after the warmup; None where the method sets learning rates.

    Args:
        config: the run.
        optimizer: its optimizer.
        total_steps: optimizer steps of the run, if it has no budget.
        budget: the learning rate follows the part of it that is spent.
    """
    if METHODS[config.method].sets_learning_rates:
        return None
    total = budget.steps if budget else total_steps
    warmup = config.warmup * total

    def factor(step: int) -> float:
        done = budget.spent * total if budget else step
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup)))

    return LambdaLR(optimizer, factor)
