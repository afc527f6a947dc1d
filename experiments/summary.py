"""All workloads of the paper's comparisons in one table: what methods lose, and what they cost."""

from pathlib import Path

import pandas as pd

from experiments.majority import not_learned
from experiments.markup import escape_markdown, markdown
from experiments.names import display_name
from experiments.results import read_csv
from experiments.tables import accuracy, difference, distinct, number, with_remarks

TABLES = {"table2": "", "table3": ", from scratch", "table6": "", "table7": ", from scratch"}
"""Those in which methods are compared, and what their networks start from."""
METHODS = ("smartfrz", "linear", "autofreeze", "shorter")


def summary(results: Path, scale: str) -> str:
    """The workloads that were run, a row each, in Markdown.

    Args:
        results: the folder of all results.
        scale: of the tables.
    """
    starts = {results / f"{name}-{scale}": start for name, start in TABLES.items()}
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
    """What a method gains or loses, and the part of the compute that it spends."""
    return with_remarks(f"{difference(row)} at {number(row['compute_ratio'], '.2f')}", row)


def _caption(folders: list[Path]) -> str:
    if not folders:
        return "Nothing has been run yet."
    runs = pd.concat([read_csv(folder / "runs.csv") for folder in folders])
    commands = runs["command"].str.replace(r" (?:CONTROLS|BUDGET)=1", "", regex=True)
    return (
        "Accuracy of full training in percent (CoLA: Matthews correlation), and of the others the "
        "difference beside it, in points, at the part of its compute that they spend: means and "
        f"sample standard deviations over seeds {', '.join(distinct(runs['seed']))}. Measured: "
        f"machine {' and '.join(distinct(runs['machine']))}; torch "
        f"{' and '.join(distinct(runs['torch']))}; command "
        f"{' and '.join(distinct(commands))}, for shorter training with CONTROLS=1; commits in "
        "each table's own caption."
        f"{not_learned(runs)}"
    )
