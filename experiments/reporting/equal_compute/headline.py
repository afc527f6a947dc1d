"""The main comparison in one small table: SmartFRZ and the strongest control at equal compute."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from experiments.reporting.equal_compute.claims import COMPUTES
from experiments.reporting.equal_compute.differences import MEAN, points, workload
from experiments.reporting.labels import display_name
from experiments.reporting.markup import BLANK, escape_markdown, markdown
from experiments.reporting.provenance import measured_on
from experiments.reporting.remarks import not_learned
from experiments.reporting.statistics import t_interval
from experiments.reporting.tables import accuracy, difference, with_remarks
from experiments.runs.run_frame import read_csv


def headline(folder: Path) -> str:
    """Returns a Markdown table with a row for each workload, and what it shows in sentences.

    The strongest control at a compute is the one with the highest mean over workloads, of those
    that are planned for as many seeds as SmartFRZ and have run in the same workloads.

    Args:
        folder: a drawn table of methods at several computes, such as ``results/compute-small``.
    """
    table = read_csv(folder / "table.csv")
    apart = read_csv(folder / "differences.csv").fillna({"dataset": ""})
    means = apart[apart["model"] == MEAN].set_index(["compute", "rival"], drop=False)
    strongest = {compute: _strongest(apart, compute) for compute in COMPUTES}
    shown = [(method, at) for at in COMPUTES for method in ("smartfrz", strongest[at]) if method]
    rows = [f"{method} {compute:.0%}" for method, compute in shown]
    header = ["Workload", "Full training", *(_title(row) for row in rows)]
    body = [_of_workload(of, rows) for _, of in table.groupby(["model", "dataset"], sort=False)]
    last = ["Mean", "", *(_mean(table, row) for row in rows)]
    caption = _caption(read_csv(folder / "runs.csv"))
    sentences = "".join(f"- {escape_markdown(each)}\n" for each in _sentences(means, strongest))
    return f"{markdown(header, [[*body, last]], caption, labels=1)}\n{sentences}"


def _strongest(apart: pd.DataFrame, compute: float) -> str | None:
    """The strongest control at a compute; None while none has run in SmartFRZ's workloads.

    SmartFRZ's own plan without the predictor is an ablation, which has a sentence of its own.
    """
    at = apart[(apart["compute"] == compute) & ~apart["rival"].isin(["full", "plan"])]
    of, means = at[at["model"] != MEAN], at[at["model"] == MEAN]
    workloads = ["model", "dataset"]
    few_seeds = of.loc[of["planned"] < of.groupby(workloads)["planned"].transform("max"), "rival"]
    ran = of[of["n"] > 0]
    counts = ran.groupby("rival").size()
    everywhere = counts.index[counts == len(ran[workloads].drop_duplicates())]
    means = means[means["rival"].isin(everywhere) & ~means["rival"].isin(set(few_seeds))]
    return None if means.empty else str(means.loc[means["mean"].idxmin(), "rival"])


def _title(row: str) -> str:
    method, _, compute = row.rpartition(" ")
    return escape_markdown(f"{display_name(method)} at {compute}")


def _of_workload(of: pd.DataFrame, rows: list[str]) -> list[str]:
    methods = of.set_index("method", drop=False)
    full = methods.loc["full"]
    cells = [_cell(methods.loc[row]) if row in methods.index else BLANK for row in rows]
    accuracies = accuracy(full["accuracy_mean"], full["accuracy_std"])
    return [escape_markdown(workload(full)), with_remarks(accuracies, full), *cells]


def _cell(row: pd.Series) -> str:
    return with_remarks(difference(row), row)


def _mean(table: pd.DataFrame, row: str) -> str:
    of = table.loc[table["method"] == row, "difference_mean"].dropna()
    return points(pd.Series({"mean": of.mean(), "interval": t_interval(of)}))


def _sentences(means: pd.DataFrame, strongest: Mapping[float, str | None]) -> Iterator[str]:
    """Yields what SmartFRZ loses, how it compares to the strongest control, and to its own plan."""
    yield _listed(means, "SmartFRZ minus full training, by the mean over workloads", "full")
    verdicts = [
        f"{_verdict(means.loc[(compute, rival)])} {display_name(rival)} at {compute:.0%} "
        f"({points(means.loc[(compute, rival)])})"
        for compute, rival in strongest.items()
        if rival
    ]
    yield (
        "The strongest control, which needs no predictor: SmartFRZ is "
        f"{' and '.join(verdicts) if verdicts else 'not compared with one yet'}."
    )
    yield _listed(means, "What the predictor adds to the plan that SmartFRZ follows", "plan")


def _verdict(row: pd.Series) -> str:
    if not abs(row["mean"]) > row["interval"]:
        return "level with"
    return "ahead of" if row["mean"] > 0 else "behind"


def _listed(means: pd.DataFrame, what: str, rival: str) -> str:
    found = [
        f"{points(means.loc[(compute, rival)])} points at {compute:.0%}"
        for compute in COMPUTES
        if (compute, rival) in means.index
    ]
    return f"{what}: {' and '.join(found) if found else 'not run'}."


def _caption(runs: pd.DataFrame) -> str:
    return (
        "Accuracy of full training in percent (CoLA: Matthews correlation); for the other methods "
        "the difference to it in points, at the given percentage of its compute. Mean ± sample "
        "standard deviation over seeds; last, the mean over workloads ± its 95% interval over "
        "workloads. Beside SmartFRZ stands the strongest of the controls with as many seeds."
        f"{not_learned(runs)} {measured_on(runs)}"
    )
