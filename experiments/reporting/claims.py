"""Which of the paper's claims a table's runs bear out, which not, and which can't be told."""

import math
from collections.abc import Iterator

import pandas as pd

from experiments.reporting.labels import display_name
from experiments.reporting.statistics import t_interval
from experiments.reporting.tables import paired_by, with_ratios

LOSS = 0.3
"""Points of accuracy that SmartFRZ may lose beside full training."""
COMPUTE = 0.6
"""Part of full training's compute that it may spend."""

# Linear freezing has fewer epochs, too: what a schedule that is cut short gains by itself shows.
_PAIRS = (
    *(("smartfrz", rival) for rival in ("linear", "autofreeze", "shorter", "random")),
    ("linear", "shorter"),
)
_VERDICTS = {True: "holds", False: "does not hold", None: "can't be told"}


def claims(frame: pd.DataFrame) -> str:
    """What a table's runs say of SmartFRZ, in Markdown: a line for each claim.

    Differences are paired by seed. A claim about them holds or not if their 95% t-interval is on
    one side of its bound, and can't be told if it is on both, or there is one seed only. On average
    over all networks and data sets the mean difference of each counts as one value.

    Args:
        frame: the runs of a table.

    Returns:
        The lines, and one that counts; once more for rows within a budget of compute. Empty if no
        SmartFRZ has been run beside full training.
    """
    runs = with_ratios(frame)
    finished = runs[runs["status"] == "finished"]
    found = "".join(_lines(finished))
    within = _within_budget(finished)
    if (within["method"] == "smartfrz").any():
        found += f"\nWithin {COMPUTE:.0%} of full training's compute:\n\n{''.join(_lines(within))}"
    return found


def _within_budget(finished: pd.DataFrame) -> pd.DataFrame:
    """The rows ``smartfrz 60%`` and its like, named as the methods that they are."""
    names = finished["method"].str.removesuffix(f" {COMPUTE:.0%}")
    return finished.assign(method=names)[(names != finished["method"]) | (names == "full")]


def _lines(finished: pd.DataFrame) -> Iterator[str]:
    if not (finished["method"] == "smartfrz").any():
        return
    own = dict(_runs_of("smartfrz", finished))
    yield _line(
        f"SmartFRZ loses no more than {LOSS:g} points beside full training",
        _within_each({name: of["difference"] for name, of in own.items()}, -LOSS),
    )
    yield _line(
        f"it spends at most {COMPUTE:.0%} of full training's compute",
        {name: _at_most(of["compute_ratio"], COMPUTE) for name, of in own.items()},
    )
    for ours, rival in _PAIRS:
        gains = {name: gain for name, gain in _gains(finished, ours, rival) if len(gain)}
        if gains:
            who = "it" if ours == "smartfrz" else display_name(ours)
            claim = f"{who} is more accurate than {display_name(rival)}"
            yield _line(claim, _within_each(gains, 0))
    yield _counted(finished)


def _counted(finished: pd.DataFrame) -> str:
    """Of how many networks and data sets all of it is true, going by the means alone."""
    own = dict(_runs_of("smartfrz", finished))
    cheap = [
        name
        for name, of in own.items()
        if of["difference"].mean() >= -LOSS and _at_most(of["compute_ratio"], COMPUTE)[0]
    ]
    line = (
        f"- **Going by the means alone**, both of the first two are true of {_named(cheap)} of "
        f"{len(own)}"
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
        f"{line}; SmartFRZ is ahead of {' and '.join(rivals)} in {_named(ahead)}; all of it is "
        f"true of {_named([name for name in cheap if name in ahead])}.\n"
    )


def _named(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _runs_of(method: str, finished: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    own = finished[finished["method"] == method]
    for (model, dataset), of in own.groupby(["model", "dataset"], sort=False):
        yield f"{display_name(str(model))} on {display_name(str(dataset))}", of


def _gains(finished: pd.DataFrame, ours: str, rival: str) -> Iterator[tuple[str, pd.Series]]:
    """By how many points a method is ahead of a rival with the same seed."""
    rivals = finished[finished["method"] == rival]
    for name, own in _runs_of(ours, finished):
        both = own.merge(rivals, on=paired_by(finished), suffixes=("", "_rival"))
        yield name, 100 * (both["final_accuracy"] - both["final_accuracy_rival"])


def _within_each(
    differences: dict[str, pd.Series], bound: float
) -> dict[str, tuple[bool | None, str]]:
    """A verdict for each network and data set, and for their average if there are several."""
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
    """To the percent: a budget is met to the nearest step."""
    mean = round(ratios.mean(), 2)
    return (None if math.isnan(mean) else bool(mean <= bound)), f"{mean:.2f}"


def _line(claim: str, found: dict[str, tuple[bool | None, str]]) -> str:
    parts = []
    for verdict in (True, False, None):
        names = [f"{name} ({words})" for name, (held, words) in found.items() if held is verdict]
        if names:
            parts.append(f"{_VERDICTS[verdict]} for {', '.join(names)}")
    return f"- **{claim[0].upper() + claim[1:]}:** {'; '.join(parts)}.\n"
