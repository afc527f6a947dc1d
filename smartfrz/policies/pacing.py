"""Schedules that spend a given compute."""

import math
from collections.abc import Callable, Collection, Mapping

from smartfrz.cost import compute_spent


def check_compute(compute: float, name: str = "compute") -> None:
    """Raises if a compute to spend is out of range.

    Args:
        compute: the fraction of full training's compute to spend.
        name: the name of the argument.

    Raises:
        ValueError: it is not in (0, 1].
    """
    if not 0 < compute <= 1:
        raise ValueError(
            f"{name}={compute} must be more than 0 and at most 1: it is a fraction of full "
            "training's compute."
        )


def schedule_compute(
    freeze_steps: Mapping[str, int],
    total_steps: int,
    costs: Callable[[Collection[str]], float],
) -> float:
    """Returns the compute of a run, as a fraction of full training's.

    Args:
        freeze_steps: the step at which each layer freezes, which itself counts in full; in any
            order. Layers that are missing, or that freeze after the run, never freeze.
        total_steps: optimizer steps of the whole run.
        costs: the cost of a step with some layers frozen, such as ``Freezer.costs``.
    """
    events = sorted((step, "freeze", name) for name, step in freeze_steps.items())
    return compute_spent(events, total_steps, costs) / total_steps


def even_pace(position: float, spread: float, place: float) -> float:
    """Returns when a layer freezes if layers freeze from front to back at an even pace.

    Args:
        position: from 0, with which all layers freeze at the start, to 1, with which none does. In
            between, what lies before the start or after the end of the run is cut off.
        spread: the part of the run between the first layer's moment and the last layer's.
        place: the layer's place, from 0 for the first layer to 1 for the last.

    Returns:
        The moment, in parts of the run, from 0 to 1.
    """
    return min(max(position + spread * (position - 1 + place), 0.0), 1.0)


def meet_compute(
    compute: float,
    schedules: Callable[[float], Mapping[str, int]],
    compute_of: Callable[[Mapping[str, int]], float],
) -> dict[str, int]:
    """Returns the schedule of a family that spends a given compute.

    The family's parameter is found by bisection. Layers are discrete, and so are steps. Between the
    two neighbours that spend too little and too much, layers change from one to the other, the last
    layer first, and the one at which the compute is reached changes by as many steps as fit: the
    result misses the compute by at most half of what one step of one layer costs.

    Args:
        compute: the fraction of full training's compute to spend.
        schedules: a step for each layer as a function of a number from 0 to 1, with the same layers
            in the same order everywhere. The compute must not fall as the number grows.
        compute_of: returns the compute that a schedule spends.

    Returns:
        The schedule; that of 1, if it spends less than ``compute``.

    Raises:
        ValueError: the schedule of 0 already spends more.
    """
    least = compute_of(schedules(0.0))
    if compute < least - 1e-9:
        raise ValueError(
            f"compute={compute:g} cannot be reached: with all layers but the heads frozen as early "
            f"as possible, the run still spends {math.ceil(1000 * least) / 1000} of full "
            "training's compute. Ask for at least as much."
        )
    if compute_of(schedules(1.0)) <= compute:
        return dict(schedules(1.0))
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if compute_of(schedules(middle)) > compute else (middle, high)
    return _between(schedules(low), schedules(high), compute, compute_of)


def _between(
    low: Mapping[str, int],
    high: Mapping[str, int],
    compute: float,
    compute_of: Callable[[Mapping[str, int]], float],
) -> dict[str, int]:
    """Returns a schedule between two, of which the first spends too little, the second too much."""
    schedule = dict(low)
    for name in reversed([*low]):
        if compute_of(schedule | {name: high[name]}) > compute:
            return schedule | {name: _nearest(schedule, name, high[name], compute, compute_of)}
        schedule[name] = high[name]
    return schedule


def _nearest(
    schedule: Mapping[str, int],
    name: str,
    end: int,
    compute: float,
    compute_of: Callable[[Mapping[str, int]], float],
) -> int:
    """Returns the step of a layer, from that in the schedule to ``end``, that fits best."""

    def error(step: int) -> float:
        return compute_of({**schedule, name: step}) - compute

    low, high = schedule[name], end  # spend too little, and too much
    while abs(high - low) > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) > 0 else (middle, high)
    return min(low, high, key=lambda step: abs(error(step)))
