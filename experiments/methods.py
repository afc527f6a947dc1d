"""From a method's name to the policy and the optimizer that it needs."""

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, Optimizer

from baselines import AutoFreeze, FreezeOut
from baselines.freezeout import param_groups
from experiments.config import AutoFreezing, Linear, RunConfig, SmartFreezing
from smartfrz.freezer import Policy
from smartfrz.layers import Layer
from smartfrz.policies import SmartFRZ
from smartfrz.predictor import AttentionPredictor


def make_optimizer(config: RunConfig, model: nn.Module, layers: Sequence[Layer]) -> Optimizer:
    """SGD with momentum; one param group a layer where the method sets learning rates by layer."""
    by_layer = isinstance(config.options, Linear)
    params = param_groups(model, layers) if by_layer else model.parameters()
    return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)


def make_policy(
    config: RunConfig, model: nn.Module, optimizer: Optimizer, total_steps: int, steps_per_epoch: int
) -> Policy | None:
    """The method's policy; ``None`` for full training."""
    match config.options:
        case Linear(t0=t0, how=how, scale=scale):
            return FreezeOut(optimizer, total_steps, t0, how, scale)
        case AutoFreezing(intervals_per_epoch=intervals, percentile=percentile):
            return AutoFreeze(steps_per_epoch, intervals, percentile)
        case SmartFreezing(predictor=name, records_per_epoch=records, threshold=threshold):
            predictor = AttentionPredictor.from_pretrained(name)
            return SmartFRZ(predictor, interval(steps_per_epoch, records), threshold)
        case _:
            return None


def interval(steps_per_epoch: int, records_per_epoch: int) -> int:
    """Steps between two records."""
    return max(1, steps_per_epoch // records_per_epoch)
