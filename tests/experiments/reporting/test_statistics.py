"""Tests of the intervals, tests and corrections against scipy and naive references."""

from itertools import chain, combinations

import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from experiments.reporting.statistics import holm, t_interval, t_test

VALUES = pd.Series([0.1, 0.7, -0.2, 0.4])


@pytest.mark.parametrize("bound", [-0.5, 0.0, 0.25, 2.0])
def test_the_t_test_is_that_of_scipy(bound: float) -> None:
    assert t_test(VALUES, bound) == pytest.approx(ttest_1samp(VALUES, bound).pvalue)


def test_the_t_test_agrees_with_the_interval() -> None:
    end = VALUES.mean() - t_interval(VALUES)
    assert t_test(VALUES, end) == pytest.approx(0.05)
    assert t_test(VALUES, end - 0.01) < 0.05 < t_test(VALUES, end + 0.01)


def test_equal_values_differ_from_any_other_bound() -> None:
    assert t_test(pd.Series([0.1, 0.1, 0.1]), 0.1) == 1
    assert t_test(pd.Series([0.1, 0.1, 0.1]), 0.2) == pytest.approx(0)
    assert t_test(pd.Series([0.5, 0.5]), 0.2) == 0
    assert t_test(pd.Series([0.3, 0.2 + 0.1]), 0.1 + 0.2) == 1  # apart by rounding errors


def by_closed_testing(p_values: list[float]) -> list[float]:
    """Returns Holm's p-values by definition: Bonferroni's tests of all sets of hypotheses."""
    numbers = range(len(p_values))
    sets = list(chain.from_iterable(combinations(numbers, size + 1) for size in numbers))
    return [
        max(min(1.0, len(each) * min(p_values[j] for j in each)) for each in sets if i in each)
        for i in numbers
    ]


@pytest.mark.parametrize(
    "p_values",
    [[], [0.03], [0.01, 0.04, 0.03, 0.005], [0.2, 0.01, 0.01, 0.9, 0.3, 0.02], [0.5, 0.4, 0.0]],
)
def test_holm_s_correction_is_that_of_closed_testing(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(by_closed_testing(p_values))


def test_holm_s_correction_of_a_known_example() -> None:
    # R: p.adjust(c(0.05, 0.01, 0.02, 0.04, 0.03), "holm")
    assert holm([0.05, 0.01, 0.02, 0.04, 0.03]) == pytest.approx([0.09, 0.05, 0.08, 0.09, 0.09])
