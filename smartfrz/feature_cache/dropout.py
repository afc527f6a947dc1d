"""Dropout in the frozen front: stock training keeps it live, which makes every pass differ."""

from collections.abc import Sequence

from torch import nn

from smartfrz.freezer import stay_in_eval
from smartfrz.graph import ModuleCall
from smartfrz.layers import Layer


def first_random(calls: Sequence[ModuleCall], layers: Sequence[Layer]) -> nn.Module | None:
    """The first module to draw random numbers, if it is called before the last of these layers."""
    drew = (call.module for call in _up_to(calls, layers) if call.drew_random)
    return next(drew, None)


def switch_off_dropout(calls: Sequence[ModuleCall], front: Sequence[Layer]) -> None:
    """Puts into eval mode, for good, what is in front and frozen: no dropout is live there.

    Those are the modules that hold parameters of these layers and none that trains, all that is in
    them, and the modules without parameters that are called before the last of these layers.

    Args:
        calls: of a forward pass, in the order of their end.
        front: the frozen layers in front, in execution order.
    """
    params = {param for layer in front for param in layer.params}
    before = {call.module for call in _up_to(calls, front)}
    for module in {call.module for call in calls}:
        own = list(module.parameters())
        is_frozen = not params.isdisjoint(own) and not any(param.requires_grad for param in own)
        if is_frozen or (not own and module in before):
            for each in module.modules():
                stay_in_eval(each)


def _up_to(calls: Sequence[ModuleCall], layers: Sequence[Layer]) -> Sequence[ModuleCall]:
    weights = {layers[-1].modules[0]} if layers else set()
    ends = [i for i, call in enumerate(calls) if call.module in weights]
    return calls[: ends[-1] + 1] if ends else calls if layers else []
