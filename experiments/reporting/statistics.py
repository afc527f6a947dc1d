"""Confidence intervals."""

import math

import pandas as pd
from scipy.stats import t


def t_interval(values: pd.Series) -> float:
    """Half the width of the mean's 95% Student t-interval; NaN for fewer than two values."""
    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std() / math.sqrt(n)) if n > 1 else math.nan
