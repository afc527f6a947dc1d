"""Paired differences between SmartFRZ and every other row at the same compute."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from experiments.reporting.equal_compute.rows import method_and_compute
from experiments.reporting.labels import display_name
from experiments.reporting.markup import (
    BLANK,
    NOT_RUN,
    escape_latex,
    escape_markdown,
    joined,
    latex,
    markdown,
)
from experiments.reporting.provenance import measured_on
from experiments.reporting.statistics import LEVEL, holm, t_interval, t_test
from experiments.reporting.tables import paired_by, with_ratios

MEAN = "mean"
"""The model of the rows that average over workloads, which have no data set."""
COLUMNS = (
    *("model", "dataset", "compute", "rival", "n", "planned", "diverged", "is_complete"),
    *("mean", "interval", "p_value", "own_compute", "rival_compute"),
)
_WORKLOAD = ["model", "dataset"]
_SIGNIFICANT = "\N{DAGGER}"
_LABELS = 2  # leading text columns of a rendered table


def differences(frame: pd.DataFrame, cells: Sequence[tuple[str, str, str, int]]) -> pd.DataFrame:
    """Compares SmartFRZ with full training and with all controls, workload by workload.

    Args:
        frame: the runs of a table.
        cells: the planned (model, data set, row, seed) cells, without diagnostics, see `compared`.

    Returns:
        One row per workload, compute and rival, and per compute and rival one for the average over
        workloads, with `COLUMNS`. ``mean``: SmartFRZ's accuracy minus the rival's in points, over
        ``n`` pairs of runs with the same seed and initial weights, or over ``n`` of the
        workloads planned at this compute. ``interval``: half the width of its 95% interval.
        ``p_value``: of a t test, with Holm's correction for all controls of the same workload and
        compute; full training is a test of its own. ``diverged``: the rival's diverged runs.
        ``is_complete``: whether every planned pair was run, apart from those. The last two columns
        are mean computes as measured.
    """
    runs = with_ratios(frame)
    seeds: dict[tuple[str, str], dict[str, set[int]]] = {}
    for model, dataset, row, seed in cells:
        seeds.setdefault((model, dataset), {}).setdefault(row, set()).add(seed)
    found = [
        {"model": model, "dataset": dataset, **_pair(of_workload, own, rival, planned)}
        for (model, dataset), planned in seeds.items()
        for of_workload in [runs[(runs["model"] == model) & (runs["dataset"] == dataset)]]
        for own, rival in _rivals(list(planned))
    ]
    table = pd.DataFrame([*found, *_averages(pd.DataFrame(found))])
    points = [pd.Series(of_row, dtype=float) for of_row in table["differences"]]
    table["mean"] = [of_row.mean() for of_row in points]
    table["interval"] = [t_interval(of_row) for of_row in points]
    table["p_value"] = [t_test(of_row, 0) if len(of_row) > 1 else np.nan for of_row in points]
    together = [*_WORKLOAD, "compute", table["rival"] == "full"]
    table["p_value"] = table.groupby(together)["p_value"].transform(_corrected)
    return table.reindex(columns=COLUMNS)


def _rivals(rows: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields each row of SmartFRZ with full training and with each control at its compute."""
    for own in rows:
        method, compute = method_and_compute(own)
        if method == "smartfrz" and compute is not None:
            same = [row for row in rows if row != own and method_and_compute(row)[1] == compute]
            yield from ((own, rival) for rival in ["full", *same])


def _pair(
    runs: pd.DataFrame, own: str, rival: str, seeds: dict[str, set[int]]
) -> dict[str, object]:
    finished = runs[runs["status"] == "finished"]
    ours, theirs = (finished[finished["method"] == row] for row in (own, rival))
    pairs = ours.merge(theirs, on=paired_by(runs), suffixes=("", "_rival"))
    planned = len(seeds[own] & seeds.get(rival, set()))
    diverged = int(((runs["method"] == rival) & (runs["status"] == "diverged")).sum())
    return {
        "compute": method_and_compute(own)[1],
        "rival": method_and_compute(rival)[0],
        "n": len(pairs),
        "planned": planned,
        "diverged": diverged,
        "is_complete": len(pairs) + diverged >= planned,
        "differences": tuple(100 * (pairs["final_accuracy"] - pairs["final_accuracy_rival"])),
        "own_compute": ours["compute_ratio"].mean(),
        "rival_compute": theirs["compute_ratio"].mean(),
    }


def _averages(found: pd.DataFrame) -> Iterator[dict[str, object]]:
    planned = found[[*_WORKLOAD, "compute"]].drop_duplicates().groupby("compute").size()
    for (compute, rival), of in found.groupby(["compute", "rival"], sort=False):
        means = tuple(float(np.mean(each)) for each in of["differences"] if each)
        yield {
            **{"model": MEAN, "dataset": "", "compute": compute, "rival": rival},
            "n": len(means),
            "planned": int(planned[compute]),
            "diverged": int(of["diverged"].sum()),
            "is_complete": bool(of["is_complete"].all()),
            "differences": means,
            "own_compute": of["own_compute"].mean(),
            "rival_compute": of["rival_compute"].mean(),
        }


def _corrected(p_values: pd.Series) -> pd.Series:
    tested = p_values.dropna()
    return pd.Series(holm(list(tested)), tested.index, dtype=float).reindex(p_values.index)


def caption(frame: pd.DataFrame) -> str:
    """Returns the caption of the table.

    Args:
        frame: the runs of the table.
    """
    return (
        "SmartFRZ minus other methods at the same compute, and minus full training: mean "
        "difference in points over pairs of runs with the same seed and first weights, ± its 95% "
        "Student interval; in brackets, pairs of those planned. Last, the mean over workloads, "
        "each of which counts once, ± its interval over workloads; in brackets, workloads of "
        f"those at this compute. {_SIGNIFICANT}: a t test tells the difference from zero at the "
        f"{LEVEL:.0%} level, with Holm's correction for all methods at this compute. "
        f"{measured_on(frame) if len(frame) else 'Nothing has been run yet.'}"
    )


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Returns the differences as GitHub Markdown: a row per rival, a column per workload.

    The rivals at a compute without any pair of runs share its last rows, see `joined`.
    """
    return markdown(*_rendered(table, escape_markdown, joined), caption, _LABELS)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Returns the same as a LaTeX float, which needs the package booktabs."""
    return latex(*_rendered(table, escape_latex), caption, _LABELS)


def workload(row: pd.Series) -> str:
    """Returns the workload of a row, as text."""
    if row["model"] == MEAN:
        return "Mean"
    return f"{display_name(row['model'])} on {display_name(row['dataset'])}"


def points(row: pd.Series) -> str:
    """Returns the mean difference of a row with its interval, as text; a dash for none."""
    if pd.isna(row["mean"]):
        return BLANK
    spread = "" if pd.isna(row["interval"]) else f" ± {row['interval']:.2f}"
    return f"{row['mean']:+.2f}{spread}".replace("-", "\N{MINUS SIGN}")


def _rendered(
    table: pd.DataFrame,
    escape: Callable[[str], str],
    arranged: Callable[[list[list[str]], int], list[list[str]]] = lambda rows, _: rows,
) -> tuple[list[str], list[list[list[str]]]]:
    workloads = list(dict.fromkeys(workload(row) for _, row in table.iterrows()))
    cells = {
        (row["compute"], row["rival"], workload(row)): _cell(row) for _, row in table.iterrows()
    }
    groups = []
    for compute in sorted(table["compute"].unique(), reverse=True):
        rivals = table.loc[table["compute"] == compute, "rival"].unique()
        rows = [
            [f"{compute:.0%}", display_name(rival)]
            + [cells.get((compute, rival, name), BLANK) for name in workloads]
            for rival in rivals
        ]
        groups.append(arranged(rows, _LABELS))
    escaped = [[[escape(word) for word in row] for row in group] for group in groups]
    return [escape(word) for word in ("Compute", "Compared with", *workloads)], escaped


def _cell(row: pd.Series) -> str:
    if not row["n"]:
        without = NOT_RUN if row[["own_compute", "rival_compute"]].isna().any() else "no pair"
        return "diverged" if row["diverged"] else without
    marked = points(row) + (_SIGNIFICANT if row["p_value"] <= LEVEL else "")
    return marked if row["n"] == row["planned"] else f"{marked} ({row['n']}/{row['planned']})"
