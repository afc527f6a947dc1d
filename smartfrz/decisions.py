"""Decisions of a policy, on which all processes agree."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smartfrz.distributed import agree, is_distributed
from smartfrz.layers import Layer

if TYPE_CHECKING:
    from smartfrz.policies.protocol import Policy


def decide(
    policy: "Policy", layers: Sequence[Layer], active: Sequence[Layer], step: int
) -> tuple[list[Layer], list[Layer]]:
    """Queries a policy, once at each step; the choice of rank 0 holds.

    Args:
        policy: the policy.
        layers: all layers, in execution order.
        active: those that train.
        step: the index of the optimizer step about to be taken.

    Returns:
        The layers to thaw, and the layers to freeze, in execution order. A layer of which the
        policy selects both is thawed.
    """
    thawing = _layers_to_thaw(policy, layers, active, step)
    if thawing:
        trains = {*active, *thawing}
        active = [layer for layer in layers if layer in trains]
    # Called at every step, due or not: a policy may sum gradients or set learning rates.
    chosen = [layer.name for layer in policy.layers_to_freeze(active, step)]
    if not _is_due(policy, step):
        return thawing, []
    freezing = _agreed(chosen, active)
    return thawing, [each for each in freezing if not each.is_head and each not in thawing]


def _layers_to_thaw(
    policy: "Policy", layers: Sequence[Layer], active: Sequence[Layer], step: int
) -> list[Layer]:
    thaw = getattr(policy, "layers_to_thaw", None)
    if thaw is None or not _is_due(policy, step):
        return []
    trains = set(active)
    frozen = [layer for layer in layers if layer not in trains]
    return _agreed([layer.name for layer in thaw(frozen, step)], frozen)


def _is_due(policy: "Policy", step: int) -> bool:
    is_due = getattr(policy, "is_due", None)
    return is_due is None or is_due(step)


def _agreed(names: list[str], layers: Sequence[Layer]) -> list[Layer]:
    """Returns the layers that rank 0 has named, in execution order."""
    if layers and is_distributed():
        names = agree(names)
    return [layer for layer in layers if layer.name in names]


def warn_if_early(active: Sequence[Layer], step: int, total_steps: int | None) -> None:
    """Warns if all layers but the heads were frozen in the first quarter of a run.

    Not at step 0, at which nothing can be taken for convergence.
    """
    if total_steps is None or not 0 < step < total_steps / 4:
        return
    if all(layer.is_head for layer in active):
        # Without numbers, so that Python shows it once for many runs.
        warnings.warn(
            "All layers but the head were frozen in the first quarter of the run. If the loss "
            "has hardly fallen by then, a plateau was taken for convergence: freeze later, "
            "with a higher threshold or more records before the first decision.",
            stacklevel=3,
        )
