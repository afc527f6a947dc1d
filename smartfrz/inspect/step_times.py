"""How long steps take at the beginning of a run and now."""

import time
from collections import deque
from collections.abc import Sequence
from statistics import mean, median

_SKIPPED, _STEPS = 2, 20


class StepTimes:
    """Compares the time of the last steps of a run with that of its first ones.

    The first two steps are left out, as they allocate and compile.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._first: list[tuple[float, int]] = []
        self._newest: deque[tuple[float, int]] = deque(maxlen=_STEPS)
        self._count = 0

    def note(self, events: int) -> None:
        """Notes a step.

        Args:
            events: the number of freezes and thaws before it.
        """
        now = time.perf_counter()
        if self._last is not None:
            self._count += 1
            if self._count > _SKIPPED:
                taken = (now - self._last, events)
                if len(self._first) < _STEPS:
                    self._first.append(taken)
                else:
                    self._newest.append(taken)
        self._last = now

    def ratios(self, step_costs: Sequence[float]) -> tuple[float, float] | None:
        """Returns the time and the compute of the last steps, the first ones' being 1.

        Args:
            step_costs: the compute of a step after each number of events.

        Returns:
            The two ratios, or ``None`` if there were too few steps.
        """
        if len(self._newest) < _STEPS:
            return None
        before, now = (median(taken for taken, _ in part) for part in (self._first, self._newest))
        more, less = (
            mean(step_costs[events] for _, events in part) for part in (self._first, self._newest)
        )
        return now / before, less / more
