"""What numbers say about the paper's claims, one function for each claim.

Each takes the rows of a CSV file under ``results/``, and returns None if they say nothing yet.
"""

import pandas as pd

from experiments.reporting.claims.tables import COMPUTE, LOSS
from experiments.reporting.statistics import LEVEL, t_interval

Found = tuple[str, bool | None]
"""Numbers, as text, and whether they support a claim; None if that is inconclusive."""


_NEGLIGIBLE = 0.01
"""The share of the training time below which SmartFRZ's own is called negligible."""
_SIMILAR = 1.0
"""Accuracies that are less apart, in points, are called similar, as in Section 4.4."""
_ALMOST = 0.9
"""Time saved, divided by compute saved, from which on they are called almost the same."""
_ROUNDING = 5e-3
"""By how much a run may miss a compute, because it has a whole number of steps."""


def compute(table: pd.DataFrame) -> Found | None:
    """The compute that SmartFRZ spends."""
    ratios = table.loc[table["method"] == "smartfrz", "compute_ratio"].dropna()
    if ratios.empty:
        return None
    found = f"{ratios.min():.2f} to {ratios.max():.2f}, mean {ratios.mean():.2f}"
    return found, bool(ratios.max() <= COMPUTE + _ROUNDING)


def oracle(table: pd.DataFrame) -> Found | None:
    """What freezing by similarity to the final model loses."""
    means = table.loc[table["method"] != "full", "difference_mean"].dropna()
    if means.empty:
        return None
    interval = t_interval(means)
    found = f"{len(means)} workloads ({means.mean():+.2f} ± {interval:.2f})"
    margin = means.mean() + LOSS
    return found, None if not abs(margin) > interval else bool(margin > 0)


def settings(table: pd.DataFrame) -> Found | None:
    """How far SmartFRZ's accuracies with different settings are apart."""
    own = table[table["method"].str.startswith("smartfrz")].dropna(subset="difference_mean")
    if own.empty:
        return None
    spans = own.groupby(["model", "dataset"])["difference_mean"].agg(["min", "max"])
    widest = (spans["max"] - spans["min"]).max()
    return f"accuracies differ by at most {widest:.2f} points", bool(widest < _SIMILAR)


def sampled(layers: pd.DataFrame) -> Found:
    """The distance between the gradients of all weights and of the sampled ones."""
    beyond = (layers["distance"] > layers["chance"]).mean()
    found = (
        f"largest distance {layers['distance'].max():.3f}; beyond the chance level in {beyond:.0%} "
        "of the layers, where 5% are expected"
    )
    return found, bool(beyond <= 2 * LEVEL)


def front_first(order: pd.DataFrame) -> Found:
    """The order in which layers stop changing."""
    is_first = (order["correlation"] > order["chance"]).all()
    exceptions = order["back_before_front"].mean()
    found = (
        f"rank correlation with depth {order['correlation'].min():.2f} or more; the later layer "
        f"first in {exceptions:.0%} of the pairs"
    )
    return found, bool(is_first and exceptions > 0)


def unseen(scores: pd.DataFrame) -> Found:
    """The errors of the paper's predictor and of ours on families that they have not seen."""
    error = 1 - scores.set_index("candidate")["within_moment"]
    relative = error / error["clock, depth and learning rate"]
    found = (
        "errors in telling layers apart, relative to a regression on clock, depth and learning "
        f"rate: {relative['raw']:.2f} with the paper's inputs, {relative['outputs']:.2f} with the "
        "layers' outputs"
    )
    return found, bool(relative["raw"] < 1)


def memory(memory: pd.DataFrame) -> Found:
    """The memory of a step at the end of a run."""
    steps = memory.groupby(["model", "dataset", "seed"])["stock"]
    left = steps.last() / steps.first()
    found = f"at the end {left.min():.0%} to {left.max():.0%} of what it is at the start"
    return found, bool((left < 1).all())


def overhead(quantities: pd.DataFrame) -> Found:
    """SmartFRZ's own share of the training time."""
    shares = quantities.loc[quantities["quantity"].str.startswith("Share"), "here"] / 100
    return f"at most {shares.max():.2%} of the training time", bool(shares.max() <= _NEGLIGIBLE)


def time(runs: pd.DataFrame) -> Found:
    """The time that whole runs save, relative to the compute."""
    ratio = runs["time_over_compute"]
    found = f"time saved divided by compute saved: {ratio.min():.2f} to {ratio.max():.2f}"
    return found, bool(ratio.min() >= _ALMOST)
