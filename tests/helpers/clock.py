"""A clock for tests of what is timed."""

from collections.abc import Iterable
from itertools import cycle


class Clock:
    """Replaces the module ``time``: the actions timed last the given seconds, in turn."""

    def __init__(self, seconds: Iterable[float]) -> None:
        self.seconds, self.now, self.calls = cycle(seconds), 0.0, 0

    def perf_counter(self) -> float:
        """Advances by the next duration at every second call, which ends an action."""
        self.calls += 1
        if self.calls % 2 == 0:
            self.now += next(self.seconds)
        return self.now
