"""Comparisons of means: confidence intervals, t tests, correction for the number of tests."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

LEVEL = 0.05
"""Probability with which one of the claims tested together may be decided by chance."""


def t_interval(values: pd.Series) -> float:
    """Half the width of the mean's 95% Student t-interval; NaN for fewer than two values."""
    from scipy.special import stdtrit  # SciPy is slow to import

    n = len(values)
    return float(stdtrit(n - 1, 0.975) * values.std() / math.sqrt(n)) if n > 1 else math.nan


def t_test(values: pd.Series, bound: float) -> float:
    """Two-sided p-value of Student's t test of the mean against a bound.

    It is below 0.05 where the `t_interval` of the mean excludes the bound.

    Args:
        values: at least two values. If all are equal, the p-value is 0, or 1 at the bound.
        bound: the mean under the null hypothesis.
    """
    from scipy.special import stdtr

    n = len(values)
    assert n > 1, "a t test needs at least two values"
    gap, error = float(values.mean()) - bound, float(values.std()) / math.sqrt(n)
    if is_close(gap, 0):
        return 1.0
    return float(2 * stdtr(n - 1, -abs(gap) / error)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, with Holm's step-down method.

    The probability that at least one true null hypothesis has a corrected p-value of 0.05 or less
    is at most 5%, however the tests depend on each other; see Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def is_close(value: float, bound: float) -> bool:
    """Whether two accuracies, in points, or two ratios differ by floating-point error only."""
    return math.isclose(value, bound, rel_tol=0, abs_tol=1e-9)


@dataclass(frozen=True)
class Comparison:
    """Differences in accuracy on one workload, whose mean a claim puts above a bound.

    Attributes:
        claim: the claim.
        workload: the network and the data set, or the workloads that are averaged.
        differences: paired differences in points, one for each seed; in the average over
            workloads, their means.
        bound: the bound in points.
        is_average: whether workloads are averaged.
    """

    claim: str
    workload: str
    differences: tuple[float, ...]
    bound: float
    is_average: bool = False

    @property
    def mean(self) -> float:
        """The mean difference; NaN if there is none."""
        return float(pd.Series(self.differences, dtype=float).mean())

    @property
    def is_tested(self) -> bool:
        """Whether there are enough differences for a test."""
        return len(self.differences) > 1

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the t test, not corrected."""
        return t_test(pd.Series(self.differences), self.bound)

    def verdict(self, p_value: float) -> bool | None:
        """Whether the claim holds, given a p-value; None if that is inconclusive."""
        return self.mean > self.bound if p_value <= LEVEL else None

    def described(self, p_value: float) -> str:
        """Returns the workload with its mean, the 95% interval, and a p-value."""
        half = t_interval(pd.Series(self.differences))
        p = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3g}"
        return f"{self.workload} ({self.mean:+.2f} ± {half:.2f}, {p})"

    def untested(self) -> str:
        """Returns the workload with the reason why there is no test."""
        return (
            f"{self.workload} ({f'{self.mean:+.2f}, one seed' if self.differences else 'not run'})"
        )


PValues = dict[Comparison, float]
"""P-values of tested comparisons."""


def corrected_p_values(compared: Iterable[Comparison]) -> PValues:
    """Returns the p-values of those comparisons that are tested, corrected for their number."""
    tested = list(dict.fromkeys(each for each in compared if each.is_tested))
    return dict(zip(tested, holm([each.p_value for each in tested]), strict=True))
