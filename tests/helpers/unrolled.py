"""The decisions of a policy over a whole run, without training."""

from collections.abc import Collection
from typing import Any

from smartfrz import Freezer


def unrolled(
    policy: Any, freezer: Freezer, steps: range, frozen: Collection[str] = ()
) -> list[tuple[int, str, str]]:
    """Queries a policy, which is attached to a freezer, at each step.

    Args:
        policy: the policy.
        freezer: knows the layers; its model is not trained, and nothing is frozen in it.
        steps: the steps.
        frozen: names of the layers that are frozen before them.

    Returns:
        What ``freezer.events`` would be.
    """
    frozen, events = set(frozen), []
    for step in steps:
        is_due = policy.is_due(step)
        fixed = [layer for layer in freezer.layers if layer.name in frozen]
        thaw = getattr(policy, "layers_to_thaw", lambda *_: [])
        thawing = {layer.name for layer in thaw(fixed, step)} if is_due else set()
        active = [layer for layer in freezer.layers if layer.name not in frozen - thawing]
        freezing = {each.name for each in policy.layers_to_freeze(active, step)} - thawing
        if is_due:
            events += [(step, "freeze", each.name) for each in active if each.name in freezing]
            events += [(step + 1, "thaw", each.name) for each in fixed if each.name in thawing]
            frozen = frozen - thawing | freezing
    return events
