"""Test of the paper's claims against a table's runs."""

import math
from collections.abc import Iterator

import pandas as pd

from experiments.reporting.labels import display_name
from experiments.reporting.statistics import t_interval
from experiments.reporting.tables import paired_by, with_ratios

LOSS = 0.3
"""Accuracy, in points, that SmartFRZ may lose relative to full training."""
COMPUTE = 0.6
"""Fraction of full training's compute that SmartFRZ may spend."""

# Linear freezing also has fewer epochs; its comparison with "shorter" isolates that effect.
_PAIRS = (
    *(("smartfrz", rival) for rival in ("linear", "autofreeze", "shorter", "random")),
    ("linear", "shorter"),
)
_VERDICTS = {True: "holds", False: "does not hold", None: "is inconclusive"}


def claims(frame: pd.DataFrame) -> str:
    """Returns a line of Markdown for each claim about SmartFRZ.

    Differences are paired by seed. A claim holds or does not hold if their 95% t-interval lies on
    one side of its bound; it is inconclusive if the interval contains the bound, or with a single
    seed. In the average over networks and data sets, each mean difference counts as one value.

    Args:
        frame: the runs of a table.

    Returns:
        The lines, and a line with counts; the same again for rows within a compute budget. Empty if
        SmartFRZ has not been run.
    """
    runs = with_ratios(frame)
    finished = runs[runs["status"] == "finished"]
    found = "".join(_lines(finished))
    within = _within_budget(finished)
    if (within["method"] == "smartfrz").any():
        found += f"\nWithin {COMPUTE:.0%} of full training's compute:\n\n{''.join(_lines(within))}"
    return found


def _within_budget(finished: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with a budget, such as ``smartfrz 60%``, without the suffix, and "full"."""
    names = finished["method"].str.removesuffix(f" {COMPUTE:.0%}")
    return finished.assign(method=names)[(names != finished["method"]) | (names == "full")]


def _lines(finished: pd.DataFrame) -> Iterator[str]:
    if not (finished["method"] == "smartfrz").any():
        return
    own = dict(_runs_of("smartfrz", finished))
    yield _line(
        f"SmartFRZ loses at most {LOSS:g} points relative to full training",
        _within_each({name: of["difference"] for name, of in own.items()}, -LOSS),
    )
    yield _line(
        f"SmartFRZ spends at most {COMPUTE:.0%} of full training's compute",
        {name: _at_most(of["compute_ratio"], COMPUTE) for name, of in own.items()},
    )
    for ours, rival in _PAIRS:
        gains = {name: gain for name, gain in _gains(finished, ours, rival) if len(gain)}
        if gains:
            claim = f"{display_name(ours)} is more accurate than {display_name(rival)}"
            yield _line(claim, _within_each(gains, 0))
    yield _counted(finished)


def _counted(finished: pd.DataFrame) -> str:
    """Returns a line with the number of workloads for which the claims hold by the means alone."""
    own = dict(_runs_of("smartfrz", finished))
    cheap = [
        name
        for name, of in own.items()
        if of["difference"].mean() >= -LOSS and _at_most(of["compute_ratio"], COMPUTE)[0]
    ]
    line = (
        f"- **By the means alone:** the first two claims hold for {_named(cheap)} of {len(own)} "
        f"workload{'' if len(own) == 1 else 's'}"
    )
    methods = set(finished["method"])
    rivals = {
        display_name(rival): dict(_gains(finished, "smartfrz", rival))
        for rival in ("linear", "autofreeze")
        if rival in methods
    }
    if not rivals:
        return f"{line}.\n"
    ahead = [name for name in own if all(gains[name].mean() > 0 for gains in rivals.values())]
    return (
        f"{line}; SmartFRZ is more accurate than {' and '.join(rivals)} for {_named(ahead)}; all "
        f"of these hold for {_named([name for name in cheap if name in ahead])}.\n"
    )


def _named(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _runs_of(method: str, finished: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    own = finished[finished["method"] == method]
    for (model, dataset), of in own.groupby(["model", "dataset"], sort=False):
        yield f"{display_name(str(model))} on {display_name(str(dataset))}", of


def _gains(finished: pd.DataFrame, ours: str, rival: str) -> Iterator[tuple[str, pd.Series]]:
    """Yields a method's gain over a rival with the same seed, in points, for each workload."""
    rivals = finished[finished["method"] == rival]
    for name, own in _runs_of(ours, finished):
        both = own.merge(rivals, on=paired_by(finished), suffixes=("", "_rival"))
        yield name, 100 * (both["final_accuracy"] - both["final_accuracy_rival"])


def _within_each(
    differences: dict[str, pd.Series], bound: float
) -> dict[str, tuple[bool | None, str]]:
    """Returns a verdict for each workload, and for their average if there are several."""
    found = {name: _within(of_seeds, bound) for name, of_seeds in differences.items()}
    if len(differences) > 1:
        means = pd.Series([of_seeds.mean() for of_seeds in differences.values()])
        found[f"the average over these {len(differences)}"] = _within(means, bound)
    return found


def _within(differences: pd.Series, bound: float) -> tuple[bool | None, str]:
    known = differences.dropna()
    half = t_interval(known)
    if known.empty:
        return None, "not run"
    if math.isnan(half):
        return None, f"{known.mean():+.2f}, one seed"
    low, high = known.mean() - half, known.mean() + half
    verdict = True if low >= bound else False if high < bound else None
    return verdict, f"{known.mean():+.2f} ± {half:.2f}"


def _at_most(ratios: pd.Series, bound: float) -> tuple[bool | None, str]:
    """Compares a mean ratio, rounded to the percent, since budgets are met to the nearest step."""
    mean = round(ratios.mean(), 2)
    return (None if math.isnan(mean) else bool(mean <= bound)), f"{mean:.2f}"


def _line(claim: str, found: dict[str, tuple[bool | None, str]]) -> str:
    parts = []
    for verdict in (True, False, None):
        names = [f"{name} ({words})" for name, (held, words) in found.items() if held is verdict]
        if names:
            parts.append(f"{_VERDICTS[verdict]} for {', '.join(names)}")
    return f"- **{claim}:** {'; '.join(parts)}.\n"
