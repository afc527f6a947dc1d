"""Times of things that take turns, so that whatever else the machine does slows all of them."""

import random
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Timed = Callable[[], float]
"""Does something and returns how many seconds the part that counts took."""


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, on the GPU too."""
    _synchronize()
    started = time.perf_counter()
    action()
    _synchronize()
    return time.perf_counter() - started


def take_turns(
    actions: Mapping[str, Timed], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Times each action ``repeats`` times, one after the other, in another order every time."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for turn in range(warmup + repeats):
        random.Random(turn).shuffle(names)
        for name in names:
            found = actions[name]()
            if turn >= warmup:
                taken[name].append(found)
    return taken


def median_ratio(part: list[float], whole: list[float]) -> float:
    """The median of the ratios of what was measured in the same turn."""
    return median(a / b for a, b in zip(part, whole, strict=True))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
