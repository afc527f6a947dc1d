"""Detection and removal of random numbers, such as those of dropout, in a frozen prefix."""

from collections.abc import Sequence

from torch import nn

from smartfrz.freezing import stay_in_eval
from smartfrz.graph import ModuleCall
from smartfrz.layers import Layer


def first_random(calls: Sequence[ModuleCall], layers: Sequence[Layer]) -> nn.Module | None:
    """Returns the first module that draws random numbers up to the last of these layers, if any."""
    drew = (call.module for call in _up_to(calls, layers) if call.drew_random)
    return next(drew, None)


def switch_off_dropout(
    calls: Sequence[ModuleCall], frozen_prefix: Sequence[Layer]
) -> list[nn.Module]:
    """Permanently puts the modules of the frozen prefix into eval mode, which disables dropout.

    These are the modules with parameters of the frozen layers and without trainable ones, all their
    submodules, and the modules without parameters that are called before the last of these layers.

    Args:
        calls: the calls of a forward pass, in order of completion.
        frozen_prefix: the layers of the frozen prefix, in execution order.

    Returns:
        These modules.
    """
    params = {param for layer in frozen_prefix for param in layer.params}
    before = {call.module for call in _up_to(calls, frozen_prefix)}
    switched_off: list[nn.Module] = []
    for module in {call.module for call in calls}:
        own = list(module.parameters())
        is_frozen = not params.isdisjoint(own) and not any(param.requires_grad for param in own)
        if is_frozen or (not own and module in before):
            switched_off += module.modules()
    for module in switched_off:
        stay_in_eval(module)
    return switched_off


def _up_to(calls: Sequence[ModuleCall], layers: Sequence[Layer]) -> Sequence[ModuleCall]:
    weights = {layers[-1].modules[0]} if layers else set()
    ends = [i for i, call in enumerate(calls) if call.module in weights]
    return calls[: ends[-1] + 1] if ends else calls if layers else []
