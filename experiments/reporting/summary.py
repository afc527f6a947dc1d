"""Summary of the paper's comparisons: accuracy and compute of all workloads in one table."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments.reporting.labels import display_name
from experiments.reporting.markup import escape_markdown, markdown
from experiments.reporting.provenance import measured_on
from experiments.reporting.remarks import not_learned
from experiments.reporting.tables import accuracy, difference, number, with_remarks
from experiments.runs.run_frame import read_csv

TABLES = {"table2": "", "table3": ", from scratch", "table6": "", "table7": ", from scratch"}
"""Tables that compare methods, with a suffix for workloads trained from scratch."""
METHODS = ("smartfrz", "linear", "autofreeze", "shorter")


def summary(results: Path, scale: str, tables: Iterable[str] = tuple(TABLES)) -> str:
    """Returns a Markdown table with a row for each workload that was run.

    Args:
        results: the folder of all results.
        scale: scale of the tables.
        tables: names in `TABLES`.
    """
    starts = {results / f"{name}-{scale}": TABLES[name] for name in tables}
    drawn = [folder for folder in starts if (folder / "table.csv").exists()]
    rows = [row for folder in drawn for row in _rows(folder, starts[folder])]
    header = ["Workload", *(display_name(method) for method in ("full", *METHODS))]
    return markdown(header, [rows], _caption(drawn), labels=1)


def _rows(folder: Path, start: str) -> list[list[str]]:
    rows = []
    cells = read_csv(folder / "table.csv")
    for (model, dataset), of in cells.groupby(["model", "dataset"], sort=False):
        methods = of.set_index("method", drop=False)
        if methods["n"]["full"]:
            name = f"{display_name(str(model))} on {display_name(str(dataset))}{start}"
            ran = set(of.loc[of["n"] > 0, "method"])
            others = (_cell(methods.loc[m]) if m in ran else "not run" for m in METHODS)
            rows.append([escape_markdown(name), _full(methods.loc["full"]), *others])
    return rows


def _full(row: pd.Series) -> str:
    return with_remarks(accuracy(row["accuracy_mean"], row["accuracy_std"]), row)


def _cell(row: pd.Series) -> str:
    """Returns a method's difference to full training, and its fraction of the compute."""
    return with_remarks(f"{difference(row)} at {number(row['compute_ratio'], '.2f')}", row)


def _caption(folders: list[Path]) -> str:
    if not folders:
        return "Nothing has been run yet."
    runs = pd.concat([read_csv(folder / "runs.csv") for folder in folders])
    command = runs["command"].str.replace(r" (?:CONTROLS|BUDGET)=1", "", regex=True)
    return (
        "Accuracy of full training in percent (CoLA: Matthews correlation); for the other methods "
        "the difference to it in points, and the share of its compute that they spend. Means and "
        "sample standard deviations over seeds; shorter training with CONTROLS=1."
        f"{not_learned(runs)} {measured_on(runs.assign(command=command))}"
    )
