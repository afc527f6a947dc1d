"""Timing of alternatives in turns, which exposes them equally to other load on the machine."""

import random
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Timed = Callable[[], float]
"""Performs an action and returns the seconds of its timed part."""


def seconds(action: Callable[[], object]) -> float:
    """Returns the duration of an action in seconds, work on the GPU included."""
    _synchronize()
    started = time.perf_counter()
    action()
    _synchronize()
    return time.perf_counter() - started


def take_turns(
    actions: Mapping[str, Timed], repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Times each action ``repeats`` times, in turns and in a different order in each turn."""
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
    """Returns the median of the ratios of two times measured in the same turn."""
    return median(a / b for a, b in zip(part, whole, strict=True))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
