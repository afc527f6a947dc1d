"""Test of the paper's claims against the runs of tables."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.reporting.contents import SECTIONS
from experiments.reporting.labels import display_name
from experiments.reporting.statistics import (
    LEVEL,
    Comparison,
    PValues,
    corrected_p_values,
    is_close,
)
from experiments.reporting.tables import of_method, paired_by, with_ratios
from experiments.runs.run_frame import read_csv

LOSS = 0.3
"""Accuracy, in points, that SmartFRZ may lose relative to full training."""
NO_LOSS = f"SmartFRZ loses at most {LOSS:g} points relative to full training"
"""The claim that it loses no accuracy."""
COMPUTE = 0.6
"""Fraction of full training's compute that SmartFRZ may spend."""

# Linear freezing also has fewer epochs; its comparison with "shorter" isolates that effect.
_PAIRS = (
    *(("smartfrz", rival) for rival in ("linear", "autofreeze", "shorter", "random")),
    ("linear", "shorter"),
)
_VERDICTS = {True: "holds", False: "does not hold", None: "is inconclusive"}
_NOT_TESTED = "is not tested"


def claims(frame: pd.DataFrame) -> str:
    """Returns the claims about SmartFRZ and their verdicts, in Markdown.

    Differences are paired by seed. A claim holds or does not hold if a t test tells their mean from
    its bound at the level `LEVEL`, corrected for all tests of the table with Holm's method; with a
    single seed it is not tested. In the average over networks and data sets, each mean difference
    counts as one value. The mean compute is compared with its bound without a test.

    Args:
        frame: the runs of a table.

    Returns:
        A paragraph on the tests, a line for each claim, and a line with counts; the lines again for
        rows with a compute budget. Empty if SmartFRZ has not been run.
    """
    finished = _finished(frame)
    if not (finished["method"] == "smartfrz").any():
        return ""
    budgeted = _with_budget(finished)
    plain, within = list(_comparisons(finished)), list(_comparisons(budgeted))
    corrected = corrected_p_values([*plain, *within])
    lines = [
        f"{_described_tests(corrected)}\n",
        *_lines(plain, corrected),
        _compute(finished),
        _by_the_means(finished),
    ]
    if within:
        lines += [
            f"\nWith a budget of {COMPUTE:.0%} of full training's compute, which is spent to the "
            "nearest step:\n",
            *_lines(within, corrected),
            _by_the_means(budgeted, has_budget=True),
        ]
    return "\n".join(lines) + "\n"


def overall_claims(results: Path, scale: str) -> str:
    """Returns those claims of all tables that are decided, in Markdown.

    Tables share runs: a comparison of the same differences counts once, for its first table.

    Args:
        results: the folder of all results.
        scale: scale of the tables.

    Returns:
        The number of tests in each table, a paragraph on all of them, and a line for each claim
        with the workloads for which it holds or does not hold.
    """
    folders = [results / section.folder(scale) for section in SECTIONS]
    found = {
        folder.name: comparisons(read_csv(folder / "runs.csv"))
        for folder in folders
        if (folder / "claims.md").exists()
    }
    if not found:
        return "Nothing has been run yet.\n"
    first_table: dict[Comparison, str] = {}
    for table, compared in found.items():
        for each in compared:
            first_table.setdefault(each, table)
    corrected = {
        replace(each, workload=f"{each.workload} in {first_table[each]}"): p_value
        for each, p_value in corrected_p_values(first_table).items()
    }
    decided = [each for each, p_value in corrected.items() if each.verdict(p_value) is not None]
    counts = [
        f"{sum(e.is_tested for e in compared)} in {table}" for table, compared in found.items()
    ]
    lines = [
        f"Comparisons tested: {', '.join(counts)}. Tables share runs; a comparison that they share "
        "counts once in what follows.\n",
        f"{_described_tests(corrected)}\n",
        *(_lines(decided, corrected) or ["No claim is decided."]),
    ]
    return "\n".join(lines) + "\n"


def comparisons(frame: pd.DataFrame) -> list[Comparison]:
    """Returns the comparisons of a table's claims, including those that cannot be tested.

    Args:
        frame: the runs of a table.
    """
    finished = _finished(frame)
    within = _comparisons(_with_budget(finished))
    budgeted = [replace(each, workload=f"{each.workload} with a budget") for each in within]
    return [*_comparisons(finished), *budgeted]


def comparisons_of_workloads(frame: pd.DataFrame) -> list[Comparison]:
    """Returns those of the `comparisons` that are of one workload, without a budget.

    Args:
        frame: the runs of a table.
    """
    return [each for each in _comparisons(_finished(frame)) if not each.is_average]


def more_accurate(ours: str, rival: str) -> str:
    """Returns the claim that a method is more accurate than another.

    Args:
        ours: the method.
        rival: the other one.
    """
    return f"{display_name(ours)} is more accurate than {display_name(rival)}"


def _described_tests(corrected: PValues) -> str:
    """Returns a paragraph with the number of tests and of verdicts, with and without correction."""
    if not corrected:
        return "No comparison was tested, which takes at least two seeds."
    holds, fails = _counts(corrected)
    alone = _counts({each: each.p_value for each in corrected})
    number = len(corrected)
    return (
        f"{number} comparison{' was' if number == 1 else 's were'} tested: two-sided t tests of "
        f"differences paired by seed, at the {LEVEL:.0%} level for all of them together, with "
        f"Holm's correction. The claim holds in {holds} of them and does not hold in {fails}; "
        f"without the correction, these numbers would be {alone[0]} and {alone[1]}. p is corrected;"
        " ± is the 95% interval of one comparison alone."
    )


def _lines(compared: Iterable[Comparison], corrected: PValues) -> list[str]:
    """Returns a line of Markdown for each claim: its verdict for each workload."""
    by_claim: dict[str, list[Comparison]] = {}
    for each in compared:
        by_claim.setdefault(each.claim, []).append(each)
    return [_line(claim, of, corrected) for claim, of in by_claim.items()]


def _line(claim: str, of: list[Comparison], corrected: PValues) -> str:
    found: dict[str, list[str]] = {words: [] for words in (*_VERDICTS.values(), _NOT_TESTED)}
    for each in of:
        if each.is_tested:
            p_value = corrected[each]
            found[_VERDICTS[each.verdict(p_value)]].append(each.described(p_value))
        else:
            found[_NOT_TESTED].append(each.untested())
    return _item(claim, found)


def _item(claim: str, found: Mapping[str, list[str]]) -> str:
    parts = [f"{words} for {', '.join(names)}" for words, names in found.items() if names]
    return f"- **{claim}:** {'; '.join(parts)}."


def _counts(p_values: PValues) -> tuple[int, int]:
    """Returns the number of comparisons in which the claim holds, and in which it does not."""
    found = [each.verdict(p_value) for each, p_value in p_values.items()]
    return found.count(True), found.count(False)


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    runs = with_ratios(frame)
    return runs[runs["status"] == "finished"]


def _with_budget(finished: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with a budget, such as ``smartfrz 60%``, without the suffix, and "full"."""
    names = finished["method"].str.removesuffix(f" {COMPUTE:.0%}")
    return finished.assign(method=names)[(names != finished["method"]) | (names == "full")]


def _comparisons(finished: pd.DataFrame) -> Iterator[Comparison]:
    own = {name: of["difference"] for name, of in _runs_of("smartfrz", finished)}
    yield from _for_each(NO_LOSS, own, -LOSS)
    for ours, rival in _PAIRS if own else ():
        gains = {name: gain for name, gain in _gains(finished, ours, rival) if len(gain)}
        yield from _for_each(more_accurate(ours, rival), gains, 0)


def _for_each(claim: str, found: Mapping[str, pd.Series], bound: float) -> Iterator[Comparison]:
    """Yields a comparison for each workload, and for the average of those with differences."""
    known = {name: of_seeds.dropna() for name, of_seeds in found.items()}
    for name, of_seeds in known.items():
        yield Comparison(claim, name, tuple(of_seeds), bound)
    means = [of_seeds.mean() for of_seeds in known.values() if len(of_seeds)]
    if len(means) > 1:
        name = f"the average over these {len(means)}"
        yield Comparison(claim, name, tuple(means), bound, is_average=True)


def _compute(finished: pd.DataFrame) -> str:
    found: dict[str, list[str]] = {"holds": [], "does not hold": [], _NOT_TESTED: []}
    for name, of in _runs_of("smartfrz", finished):
        mean = of["compute_ratio"].mean()
        if math.isnan(mean):
            found[_NOT_TESTED].append(f"{name} (not run)")
        else:
            found[_VERDICTS[_at_most(mean, COMPUTE)]].append(f"{name} ({mean:.4f})")
    claim = f"SmartFRZ spends at most {COMPUTE:.0%} of full training's compute, by the mean"
    return _item(claim, found)


def _by_the_means(finished: pd.DataFrame, has_budget: bool = False) -> str:
    """Returns a line with the number of workloads for which the claims hold by the means alone."""
    own = dict(_runs_of("smartfrz", finished))
    good = [
        name
        for name, of in own.items()
        if _at_most(-of["difference"].mean(), LOSS)
        and (has_budget or _at_most(of["compute_ratio"].mean(), COMPUTE))
    ]
    aims = f"loses at most {LOSS:g} points"
    aims += "" if has_budget else f" and spends at most {COMPUTE:.0%}"
    line = (
        f"- **By the means alone:** SmartFRZ {aims} for {_named(good)} of {len(own)} "
        f"workload{'' if len(own) == 1 else 's'}"
    )
    methods = set(finished["method"])
    rivals = {
        display_name(rival): dict(_gains(finished, "smartfrz", rival))
        for rival in ("linear", "autofreeze")
        if rival in methods
    }
    if not rivals:
        return f"{line}."
    ahead = [name for name in own if all(_is_ahead(gains[name]) for gains in rivals.values())]
    return (
        f"{line}; it is more accurate than {' and '.join(rivals)} for {_named(ahead)}; all "
        f"of these hold for {_named([name for name in good if name in ahead])}."
    )


def _is_ahead(gains: pd.Series) -> bool:
    return bool(gains.mean() > 0) and not is_close(gains.mean(), 0)


def _at_most(value: float, bound: float) -> bool:
    return bool(value <= bound) or is_close(value, bound)


def _named(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _runs_of(method: str, finished: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    own = finished[finished["method"] == method]
    for (model, dataset), of in own.groupby(["model", "dataset"], sort=False):
        yield f"{display_name(str(model))} on {display_name(str(dataset))}", of


def _gains(finished: pd.DataFrame, ours: str, rival: str) -> Iterator[tuple[str, pd.Series]]:
    """Yields a method's gain over a rival with the same seed, in points, for each workload."""
    accuracy = finished["final_accuracy"]
    of_rival = of_method(rival, finished, "final_accuracy", paired_by(finished))
    for name, own in _runs_of(ours, finished):
        yield name, (100 * (accuracy - of_rival)[own.index]).dropna()
